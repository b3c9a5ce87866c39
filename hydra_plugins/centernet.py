"""The sweeper of `centernet.sweep`, as `hydra/sweeper=continuing`: Hydra accepts sweepers from this package only."""

from hydra.core.config_store import ConfigStore

from centernet import sweep


class Sweep(sweep.Sweep):
    __doc__ = sweep.Sweep.__doc__


NODE = {"_target_": f"{__name__}.Sweep", "max_batch_size": None, "params": None, "ladder": None}
ConfigStore.instance().store(group="hydra/sweeper", name="continuing", node=NODE)
