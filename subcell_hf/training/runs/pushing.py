"""Pushes a run to the Hub: only what is complete and loads elsewhere, without pickles outside of checkpoints."""

from __future__ import annotations

from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import logging

from subcell_hf.errors import InputError, transport_error
from subcell_hf.storage.atomic import write_atomically

if TYPE_CHECKING:
    from subcell_hf.training.runs.run_trainer import RunTrainer

MODEL_FILES = ["*.json", "*.safetensors", "*.py", "README.md"]
"""Of a checkpoint, what a loader needs."""
NOT_FOR_LOADING = ["optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "loader_state.json",
                   "manifest.json", "global_step*"]  # fmt: skip
"""Of a checkpoint, what only a resume needs; some of it is pickled."""

logger = logging.get_logger(__name__)


class Pusher(TrainerCallback):
    """Pushes complete checkpoints while the training continues, and the final model.

    `hub_strategy` says what of a checkpoint is pushed: `every_save` pushes the model to the root of the repository,
    `checkpoint` also the whole checkpoint to `last-checkpoint`, `all_checkpoints` under its own name. A push that fails
    is reported in a warning; the next one pushes everything again.

    Args:
        trainer: The one whose checkpoints are pushed.

    Attributes:
        pushing: The checkpoint that is on its way to the Hub; it must not be removed yet.
    """

    def __init__(self, trainer: RunTrainer) -> None:
        self.trainer = trainer
        self.pushing: Path | None = None
        self._pushes: tuple[Future[CommitInfo], ...] = ()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin to push the checkpoint that was just written."""
        if not args.push_to_hub or args.hub_strategy == HubStrategy.END or not state.is_world_process_zero:
            return
        with self.trainer.tolerance.of("pushes of checkpoints", state.global_step):
            if args.hub_always_push or all(push.done() for push in self._pushes):
                self.wait()
                self._begin(args, state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Wait for a running push."""
        self.wait()

    def wait(self) -> None:
        """Wait for a running push, and warn if it has failed."""
        wait(self._pushes)
        for push in self._pushes:
            if push.exception() is not None:
                logger.warning(
                    f"The push of {self.pushing} to {self.trainer.hub_repository} failed: {push.exception()}"
                )
        self.pushing, self._pushes = None, ()

    def _begin(self, args: TrainingArguments, state: TrainerState) -> None:
        checkpoint = self.trainer.run_folder / f"checkpoint-{state.global_step}"
        by_steps = args.save_strategy == SaveStrategy.STEPS
        moment = f"step {state.global_step}" if by_steps else f"epoch {int(state.epoch or 0)}"
        settings: dict[str, Any] = {
            "repo_id": self.trainer.hub_repository,
            "folder_path": str(checkpoint),
            "revision": args.hub_revision,
        }
        api, message = HfApi(token=args.hub_token), f"Training in progress, {moment}"
        patterns: dict[str, Any] = {"allow_patterns": MODEL_FILES, "ignore_patterns": NOT_FOR_LOADING}
        pushes = [api.upload_folder(**settings, **patterns, commit_message=message, run_as_future=True)]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
            settings |= {"path_in_repo": place, "delete_patterns": "*", "commit_message": f"{message}, checkpoint"}
            pushes.append(api.upload_folder(**settings, run_as_future=True))
        self.pushing, self._pushes = checkpoint, tuple(pushes)

    def push_final(
        self,
        final: Path,
        commit_message: str | None,
        blocking: bool,
        token: str | None,
        revision: str | None,
        private: bool | None,
        card: dict[str, Any],
    ) -> CommitInfo | Future[CommitInfo]:
        """Push the final model in one commit; called by one process.

        Args:
            final: Folder of the model.
            commit_message: Of the commit.
            blocking: Whether to wait for the end of the push.
            token: Of the Hub; None for that of the training's arguments.
            revision: Branch; None likewise.
            private: Whether a repository that is created is private; None likewise.
            card: Arguments of `Trainer.create_model_card`.

        Raises:
            InputError: If the Hub refuses or does not answer; nothing has changed there then.
        """
        trainer = self.trainer
        self.wait()
        token, revision = token or trainer.args.hub_token, revision or trainer.args.hub_revision
        try:
            repository = trainer.open_repository(token, private)
            name = {"model_name": repository.split("/")[-1], "tags": ["subcell", "biology", "microscopy"]}
            trainer.create_model_card(**{**name, **card})
            with write_atomically(final / "README.md") as file:
                file.write((trainer.run_folder / "README.md").read_bytes())
            settings: dict[str, Any] = {
                "repo_id": repository,
                "folder_path": final,
                "commit_message": commit_message,
                "revision": revision,
            }
            api = HfApi(token=token)
            if not blocking:
                self._pushes = (api.upload_folder(**settings, run_as_future=True),)
                return self._pushes[0]
            pushed: CommitInfo = api.upload_folder(**settings)
        except (HfHubHTTPError, LocalTokenNotFoundError, transport_error(), ConnectionError, TimeoutError) as error:
            said = getattr(error, "server_message", None) or str(error) or type(error).__name__
            what = "refused the upload" if isinstance(error, HfHubHTTPError) else "could not be reached"
            raise InputError(
                f"{final} is complete, but the Hub {what} ({said}). The Hub is unchanged. Correct the token, the name "
                f"or the connection, then run: subcell export {final} --output FOLDER, and subcell push."
            ) from error
        return pushed
