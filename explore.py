"""Experiments with continuous generators: one sub-command each.

Every sub-command writes its numbers as JSON or CSV next to its picture.

Examples:
    python explore.py cost --generator=inr-gan,inr-gan-bil --resolution=256
    python explore.py superres --network=net.pkl --seeds=0-3 --outdir=out
    python explore.py extrapolate --help
"""

from __future__ import annotations

import importlib

import click

import dnnlib.cli

COMMANDS = (
    "render",
    "superres",
    "extrapolate",
    "interpolate",
    "video",
    "align",
    "lowres",
    "frequencies",
    "cost",
    "throughput",
    "upsampled-fid",
    "kpl",
    "ablate",
    "fit",
)
"""The sub-commands in the order of `--help`; each is `command` in a module of analysis/commands."""


class _Explore(dnnlib.cli.Group):
    """A group that imports a sub-command when it is asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Names of all sub-commands; see `click.Group.list_commands`."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The sub-command of a name, None if there is none; see `click.Group.get_command`."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"analysis.commands.{cmd_name.replace('-', '_')}")
        return module.command


main = _Explore(name="explore", help="Experiments with continuous generators.")


if __name__ == "__main__":
    main()
