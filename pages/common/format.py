"""Numbers and names as people read them: three significant digits, always a unit."""

import html
import math
import re

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~$:^=&@])")
_UNITS = ("B", "kB", "MB", "GB")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, unit: str = "") -> str:
    """Three significant digits: `0.0214`, `31.2 dB`, `1.20 × 10⁻⁷`, `∞`; `n/a` for NaN."""
    return _digits(float(value)) + (f" {unit}" if unit else "")


def _digits(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    sign = "−" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value):.2e}".partition("e")
    power = int(exponent)
    if -4 <= power < 6:
        rounded = float(f"{mantissa}e{power}")
        return f"{sign}{rounded:,.{max(0, 2 - power)}f}"
    return f"{sign}{mantissa} × 10{str(power).translate(_SUPERSCRIPT)}"


def short(value: float) -> str:
    """Up to four significant digits without trailing zeros, as in a worked formula: `1.365`."""
    return f"{float(value):.4g}".replace("-", "−")


def percent(share: float) -> str:
    """A share from 0 to 1 as a percentage: `18.0 %`; `100 %` and `0 %` only where exact."""
    value = 100 * float(share)
    if 99.95 <= value < 100:
        return "> 99.9 %"
    if 0 < value < 0.001:
        return "< 0.001 %"
    return f"{number(value)} %"


def size(count: float) -> str:
    """Bytes in units of 1,000: `41.2 kB`."""
    power = 0
    while count >= 999.5 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.0f} B" if power == 0 else number(count, _UNITS[power])


def count(value: float) -> str:
    """A whole number with thousands separated: `11,689,512`."""
    return f"{int(value):,}".replace("-", "−")


def duration(seconds: float) -> str:
    """A time as people plan with it: `40 s`, `3 min`, `1.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def shape(sizes: tuple[int, ...] | None) -> str:
    """A tensor's shape: `8 × 3 × 5 × 5`; `scalar` for none."""
    if sizes is None:
        return "n/a"
    return " × ".join(str(size) for size in sizes) or "scalar"


def escape(text: str) -> str:
    """`text` for a Markdown label, shown as it is: a layer's name may hold `__`, `*` or a link."""
    return _MARKDOWN.sub(r"\\\1", text)


def plain(text: str) -> str:
    """`text` for plotly or HTML, shown as it is."""
    return html.escape(text)


def layer_name(name: str) -> str:
    """HTML of a layer's name: monospace, never wrapped, the path dimmed and the leaf bold."""
    path, dot, leaf = name.rpartition(".")
    return (
        '<code style="white-space:nowrap;background:none;padding:0">'
        f'<span style="opacity:0.6">{plain(path + dot)}</span><b>{plain(leaf)}</b></code>'
    )
