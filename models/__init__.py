# SPDX-License-Identifier: Apache-2.0
"""One file per network: its codec, training and inference; weights with their cards in weights/."""
