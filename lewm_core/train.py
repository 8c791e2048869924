"""The training loop: windows, two losses, AdamW, and a checkpoint that resumes bit for bit."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from lewm_core import arrival, distributed
from lewm_core.checkpoint import Checkpoint, save_checkpoint
from lewm_core.compiling import uncompiled
from lewm_core.config import (DataConfig, ModelConfig, PlannerConfig, SurpriseConfig, TrainConfig,
                              check)
from lewm_core.data import Dataset, Prefetch
from lewm_core.evaluate import evaluate_checkpoint
from lewm_core.event_log import EventLog, check_logger, event_log
from lewm_core.finetune import check_init
from lewm_core.progress import Progress, out_of_memory
from lewm_core.memory import keep_freed_memory
from lewm_core.recalibration import calibrated, errors_of
from lewm_core.residuals import dataset_residuals
from lewm_core.run_folder import RunFolder, Settings
from lewm_core.train_heads import train_heads
from lewm_core.trainer import Trainer
from lewm_core.types import UserError

__all__ = ['Progress', 'train']

log = logging.getLogger(__name__)


def train(dataset: Dataset, model_config: ModelConfig, data_config: DataConfig,
          train_config: TrainConfig, output: str | Path, *,
          planner: PlannerConfig = PlannerConfig(), surprise: SurpriseConfig = SurpriseConfig(),
          on_progress: Callable[[Progress], None] | None = None,
          should_stop: Callable[[], bool] = lambda: False, resume: bool = True,
          overwrite: bool = False) -> Path:
    """The path of the checkpoint: trains on `dataset` and leaves the run in the folder `output`.

    An unfinished run there is resumed from its last checkpoint, on the CPU bit for bit as if it
    had never stopped, at whatever moment it was killed. `should_stop` is asked after each step;
    once true, the state and the model so far are written and the call returns. Raises UserError
    when a finished run is there (unless `overwrite`), when settings or data cannot be trained on,
    and when a loss is not finite. Under torchrun all its processes call this and train one model,
    each on its share of every batch; the first one writes.
    """
    settings = Settings(model_config, data_config, train_config, planner, surprise)
    for config in (model_config, data_config, train_config, planner, surprise):
        check(config)
    check_logger(train_config)
    check_init(train_config.init, output, overwrite)
    dataset = dataset.with_split(data_config)
    with distributed.joined(train_config.device) as device, ExitStack() as stack:
        stack.enter_context(_quiet_process(train_config.threads))
        trainer = Trainer(dataset, model_config, train_config, device, planner.horizon)
        if trainer.device.type == 'cpu':
            keep_freed_memory()
        folder = RunFolder(output, settings, dataset)
        # The first process writes, and the others hear what it found.
        state = distributed.led(lambda: stack.enter_context(folder).open(resume, overwrite))
        if state is None:
            trainer.initialise()
        else:
            trainer.load(state)
            log.info('resuming %s from step %d of %d', folder.path, trainer.done,
                     train_config.steps)
        with event_log(train_config, folder.path, trainer.done, folder.settings) as events:
            stopped = _loop(trainer, folder, events, on_progress, should_stop)
        if distributed.leader():
            with distributed.alone(), uncompiled(trainer.model):
                _finish(trainer, folder, settings, dataset, stopped, should_stop)
        return folder.model


def _loop(trainer: Trainer, folder: RunFolder, events: EventLog,
          on_progress: Callable[[Progress], None] | None, should_stop: Callable[[], bool]) -> bool:
    """Whether training was stopped before its last step."""
    config = trainer.config
    with Prefetch(trainer.batch, range(trainer.done, config.steps)) as batches:
        for step, batch in batches:
            try:
                losses = trainer.step(step, batch)
            except torch.cuda.OutOfMemoryError:
                raise out_of_memory(config, trainer.batches.resident) from None
            stop, done = distributed.anyone(should_stop()), step + 1
            save = stop or done == config.steps or done % config.checkpoint_every == 0
            validated = done == config.steps or done % config.validate_every == 0
            if validated:
                with uncompiled(trainer.model):
                    trainer.validate()
            if save or validated or done % config.log_every == 0:
                progress, row = trainer.report(losses)
                if distributed.leader():
                    folder.log(row)
                    events.log(row)
                if on_progress is not None:
                    on_progress(progress)
            if save and distributed.leader():
                folder.save(trainer.state())
            if stop:
                return done < config.steps
    return False


def _finish(trainer: Trainer, folder: RunFolder, settings: Settings, dataset: Dataset,
            stopped: bool, should_stop: Callable[[], bool]) -> Path:
    """The path of the checkpoint; a run that came to its end is evaluated and calibrated.

    The last model goes to last.safetensors, and the best one, where one was found, is the
    checkpoint. Its heads are trained here: quick enough to begin again when they are stopped.
    """
    trainer.model.eval()
    metrics = {'step': trainer.done, 'seconds': trainer.seconds, 'finished': not stopped,
               'parameters': trainer.model.num_parameters(), 'kept_step': trainer.done}
    checkpoint = Checkpoint(trainer.model, dataset.spec, settings.data, settings.train,
                            settings.planner, settings.surprise, None, metrics)
    save_checkpoint(folder.last, checkpoint)
    if trainer.best is not None:
        trainer.model.load_state_dict(trainer.best['model'])
        metrics.update(kept_step=trainer.best['step'], kept_skill=trainer.best['skill'])
    heads = {} if stopped else train_heads(trainer.model, dataset, settings.train,
                                           settings.planner, should_stop)
    if heads is None:
        stopped, metrics['finished'] = True, False
    checkpoint = dataclasses.replace(checkpoint, heads=heads or {})
    if stopped:
        log.info('stopped after step %d of %d; the same call goes on from there', trainer.done,
                 trainer.config.steps)
    else:
        held_out = next((s for s in ('test', 'validation') if len(dataset.rows(s)) > 1), None)
        if held_out is None:
            log.warning('no episode is held out, so nothing is evaluated: record more episodes')
        else:
            metrics['evaluation'] = evaluate_checkpoint(checkpoint, dataset, held_out).to_dict()
        metrics[arrival.KEY] = arrival.learn_tolerance(trainer.model, dataset)
        checkpoint = dataclasses.replace(checkpoint, calibration=_calibration(
            checkpoint, dataset))
    save_checkpoint(folder.model, checkpoint)
    log.info('%s holds the model of step %d of %d', folder.model, metrics['kept_step'],
             trainer.done)
    return folder.model


def _calibration(checkpoint: Checkpoint, dataset: Dataset) -> dict | None:
    """Surprise's calibration on episodes kept for it, or None when they are too few."""
    model, heads = checkpoint.model, checkpoint.heads
    try:
        errors = [errors_of(heads, each)
                  for each in dataset_residuals(model, dataset, 'calibration')]
        found = calibrated(model, heads, errors, model.config.frameskip * dataset.spec.tick_s,
                           checkpoint.surprise)
        return None if found is None else found[0].to_dict()
    except UserError as error:
        log.warning('surprise is not calibrated: %s', error)
        return None


@contextmanager
def _quiet_process(threads: int) -> Iterator[None]:
    """Leaves the caller's random numbers and thread count as they were."""
    before = torch.get_num_threads()
    # A driver too old for this PyTorch still counts its GPUs, and none of them can be used.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            if threads:
                torch.set_num_threads(threads)
            yield
        finally:
            torch.set_num_threads(before)


def main() -> int:
    """The exit code of `lewm train` with this program's arguments: for torchrun's `-m`."""
    from lewm_core.cli import main as lewm
    return lewm(['train', *sys.argv[1:]])


if __name__ == '__main__':
    sys.exit(main())
