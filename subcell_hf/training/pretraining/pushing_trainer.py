"""A Trainer whose pushes to the Hub hold what loads elsewhere, and nothing else: no pickles, no half-written files."""

from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import logging

from subcell_hf.errors import InputError
from subcell_hf.storage.atomic import write_atomically

MODEL_FILES = ["*.json", "*.safetensors", "*.py", "README.md"]
"""Of a checkpoint, what a loader needs."""
NOT_FOR_LOADING = ["optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "loader_state.json",
                   "manifest.json", "global_step*"]  # fmt: skip
"""Of a checkpoint, what only a resume needs; some of it is pickled."""

_TransportError: type[Exception] = HfHubHTTPError.__bases__[0]
"""What the client's HTTP library raises where there is no answer; the library itself differs between its versions."""

logger = logging.get_logger(__name__)


class PushingTrainer(Trainer):
    """Pushes complete folders only: checkpoints that have their name, and the final model."""

    pushing: Path | None = None
    """The checkpoint that is on its way to the Hub; it must not be removed yet."""
    _pushes: tuple[Future[CommitInfo], ...] = ()

    def save_final_model(self) -> Path:
        """Write the trained model to a folder that is complete; the subclass does it."""
        raise NotImplementedError

    def push_checkpoint(self, checkpoint: Path) -> None:
        """Begin to push a complete checkpoint as `hub_strategy` says; to be called by one process.

        `every_save` brings the model to the root of the repository, `checkpoint` the whole checkpoint to
        `last-checkpoint` too, `all_checkpoints` under its own name. It goes on beside the training; a push that fails
        is told in a warning, and the next one brings everything.
        """
        args = self.args
        if not args.push_to_hub or args.hub_strategy == HubStrategy.END:
            return
        if not args.hub_always_push and not all(push.done() for push in self._pushes):
            return
        self._finish_current_push()
        by_steps = args.save_strategy == SaveStrategy.STEPS
        moment = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        settings: dict[str, Any] = {
            "repo_id": self.hub_model_id,
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

    def _finish_current_push(self) -> None:
        """Wait for a push that is on its way, and warn if it has failed."""
        wait(self._pushes)
        for push in self._pushes:
            if push.exception() is not None:
                logger.warning(f"{self.pushing} did not reach {self.hub_model_id}: {push.exception()}")
        self.pushing, self._pushes = None, ()

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo:
        """Write the final model and push it in one commit; arguments as Trainer's.

        Raises:
            InputError: If the Hub refuses; nothing has changed there then.
        """
        final = self.save_final_model()
        if not self.is_world_process_zero():
            return None  # type: ignore[return-value]  # as Trainer does
        self._finish_current_push()
        token, revision = token or self.args.hub_token, revision or self.args.hub_revision
        try:
            if getattr(self, "hub_model_id", None) is None:
                self.init_hf_repo(token=token, private=private)
            kwargs.setdefault("model_name", str(self.hub_model_id).split("/")[-1])
            kwargs.setdefault("tags", ["subcell", "biology", "microscopy"])
            self.create_model_card(**kwargs)
            with write_atomically(final / "README.md") as file:
                file.write((Path(str(self.args.output_dir)) / "README.md").read_bytes())
            settings: dict[str, Any] = {
                "repo_id": str(self.hub_model_id),
                "folder_path": final,
                "commit_message": commit_message,
                "revision": revision,
            }
            api = HfApi(token=token)
            if not blocking:
                self._pushes = (api.upload_folder(**settings, run_as_future=True),)
                return self._pushes[0]  # type: ignore[return-value]  # as Trainer does
            pushed: CommitInfo = api.upload_folder(**settings)
        except (HfHubHTTPError, LocalTokenNotFoundError, _TransportError, ConnectionError, TimeoutError) as error:
            said = getattr(error, "server_message", None) or str(error) or type(error).__name__
            what = "refused it" if isinstance(error, HfHubHTTPError) else "was not reached"
            raise InputError(
                f"{final} is complete, but the Hub {what} ({said}). Nothing has changed there; correct the token, the "
                f"name or the connection, then: subcell export {final} --output FOLDER, and subcell push."
            ) from error
        return pushed
