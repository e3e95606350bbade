"""A bar of steps that says when it waits for the compiler, and leaves that out of its rate."""

from typing import Any

from tqdm import tqdm


class StepBar(tqdm):
    """Until its first step the bar says that it compiles; the time left starts from there."""

    def __init__(self, total: int, what: str = "", **settings: Any) -> None:
        self._what, self._steps = what, False
        super().__init__(
            total=total,
            desc=f"{what}: compiling" if what else "compiling",
            unit="step",
            dynamic_ncols=True,
            **settings,
        )

    def step(self) -> None:
        """One more step is done."""
        if self._steps:
            self.update()
            return
        self._steps = True
        self.unpause()
        self.n += 1
        # What came before is no step's time: neither the mean nor the moving rate counts it.
        self.initial = self.last_print_n = self.n
        self.set_description(self._what)
