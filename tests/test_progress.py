"""The bar of steps: what it says before the first one, and what its rate is made of."""

import io

from imagen_jax.progress import StepBar


def test_the_time_of_compiling_is_no_steps_time(monkeypatch):
    now, written = [0.0], io.StringIO()
    with StepBar(11, "64 pixels", file=written, mininterval=0) as bar:
        monkeypatch.setattr(bar, "_time", lambda: now[0])
        bar.start_t = bar.last_print_t = 0.0
        assert "64 pixels: compiling" in written.getvalue()
        now[0] = 100.0
        bar.step()
        assert "compiling" not in str(bar) and "?" in str(bar)
        for second in range(101, 106):
            now[0] = float(second)
            bar.step()
        assert bar.n == 6 and bar.format_dict["rate"] in (None, 1.0)
        assert "00:05<00:05" in str(bar)


def test_a_bar_that_is_not_shown_counts_nothing_and_fails_not():
    with StepBar(3, disable=True) as bar:
        bar.step()
        bar.step()
