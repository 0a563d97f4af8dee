# SPDX-License-Identifier: Apache-2.0
"""One file per network: its codec, training and inference; weights with their cards in weights/."""

import os

# PyTorch's threads spin while they wait for each other. Where another program wants the processor too (Blender
# renders while the server paints), a spinning thread keeps out the one that it waits for: measured on two busy
# cores, an insert took 24 s with spinning and 6 s without, and the same on idle ones. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
