"""Numbers for people."""

import math
from numbers import Integral, Real

RAISED = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
PLAIN = str.maketrans(RAISED, "−0123456789")
_SUPERSCRIPT = str.maketrans("-0123456789", RAISED)


def number(value: Real, digits: int = 4) -> str:
    """1234567 → "1,234,567", 0.25 → "0.25", 1.5e-8 → "1.5 × 10⁻⁸", NaN → "not a number"."""
    if isinstance(value, Integral):
        return f"{int(value):,}"
    exact = float(value)
    if math.isnan(exact):
        return "not a number"
    if math.isinf(exact):
        return "∞" if exact > 0 else "−∞"
    if exact == 0 or 1e-3 <= abs(exact) < 1e5:
        text = f"{exact:.{digits}g}" if abs(exact) < 10 ** (digits - 1) else f"{exact:,.0f}"
        return text.replace("-", "−")
    mantissa, exponent = f"{exact:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa.replace('-', '−')} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
