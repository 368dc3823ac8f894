"""The tasks for which `pipeline` runs the code of a folder."""

from typing import Any

__all__ = ["HUB_TASK", "CustomPipelines"]

HUB_TASK = "image-classification"
"""What the Hub calls the task of a model that locates proteins."""


class CustomPipelines(dict[str, Any]):
    """`custom_pipelines` of a configuration, without the tasks that are registered with transformers.

    `pipeline` reads the name of the only task here; for a task that is `in` here it demands `trust_remote_code=True`,
    to run the folder's code. A registered task needs none of it. Where the only task is not registered, it answers to
    the Hub's name as well: transformers' own class for that would read pictures of 8 bits only.
    """

    def __contains__(self, task: object) -> bool:
        from transformers.pipelines import PIPELINE_REGISTRY

        name = next(iter(self)) if task == HUB_TASK and len(self) == 1 else task
        return super().__contains__(name) and name not in PIPELINE_REGISTRY.supported_tasks

    def __missing__(self, task: str) -> Any:
        if task not in self:
            raise KeyError(task)
        return next(iter(self.values()))
