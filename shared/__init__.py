# SPDX-License-Identifier: Apache-2.0
"""What both ends speak: skeletons, messages, limits, errors, the client, geometry and colour maths."""

__version__ = "0.1.0"
