# SPDX-License-Identifier: Apache-2.0
"""The model server: pipeline, sockets, job queue and command line."""
