# SPDX-License-Identifier: Apache-2.0
"""One file per network: its codec, training and inference; weights with their cards in weights/."""

import os

# PyTorch's threads spin while they wait for each other. Where another program wants the processor too (Blender
# renders while the server paints), a spinning thread keeps out the one that it waits for: measured on two busy
# cores, an insert took 24 s with spinning and 6 s without. To sleep at once costs as well, thousands of times in
# a picture: a preview took 222 ms, and 149 ms with some 0.1 ms of spinning first, which two busy neighbours do not
# feel (0.40 and 0.42 s). Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
