"""`iscsi-rp recover-production`: production as it was at an image."""

import click

from iscsi_rp.cli.output import follow, json_option, print_facts, print_json, yes_option
from iscsi_rp.cli.parameters import group_argument, image_options, selector
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.cli.volume import users
from iscsi_rp.control.appliance_models import RecoveryPlan
from iscsi_rp.errors import ConflictError, UnreachableError
from iscsi_rp.units import format_duration, format_size, format_time


class _Plan(RecoveryPlan):
    in_use_by: list[str] | None
    "Initiators that are logged in; None: the array does not answer here."


@click.command("recover-production")
@group_argument
@image_options
@click.option("--force", is_flag=True, help="Even while initiators use the volumes.")
@click.option("--dry-run", is_flag=True, help="Show what would be restored, and do nothing.")
@yes_option
@json_option
@pass_site
def recover_production(
    site: Site,
    group: str,
    latest: bool,
    when: int | str | None,
    bookmark: str | None,
    position: int | None,
    force: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Restore production to an image: the accessed one, unless another is chosen.

    Hosts are blocked meanwhile, and should have unmounted the volumes: what they have cached is of another
    time afterwards. What production was before stays in the journal, as images.
    """
    chosen = selector(latest, when, bookmark, position)
    plan = _plan(site, site.appliance.plan_recovery(group, chosen))
    if dry_run and as_json:
        print_json(plan)
        return
    if dry_run or not yes:
        _print_plan(plan, to_stderr=as_json)
    if dry_run:
        return
    if plan.in_use_by and not force:
        raise ConflictError(
            f"initiators are logged in, and may use volumes of group {group!r}: {', '.join(plan.in_use_by)}",
            hint="Unmount the volumes and log them out, or recover with --force.",
        )
    if not yes:
        click.confirm(f"restore production of group {group} to this image?", abort=True, err=as_json)
    job = site.appliance.recover_production(group, chosen)
    job = follow(site.appliance, job, f"restoring {group}", quiet=as_json)
    if as_json:
        print_json(job)
        return
    seconds = ((job.finished_ns or job.started_ns) - job.started_ns) / 1e9
    click.echo(
        f"group {group}: production is as it was at {format_time(plan.image.time_ns)}"
        f" (after {format_duration(seconds)})"
    )


def _plan(site: Site, plan: RecoveryPlan) -> _Plan:
    try:
        hosts = users(site, plan.volumes)
    except UnreachableError:
        hosts = None
    return _Plan(**dict(plan), in_use_by=hosts)


def _print_plan(plan: _Plan, to_stderr: bool) -> None:
    hosts = "unknown: the array does not answer" if plan.in_use_by is None else ", ".join(plan.in_use_by)
    facts = [
        ("group", plan.group),
        ("image", f"{format_time(plan.image.time_ns)}, position {plan.image.position}"),
        ("bookmark", plan.image.bookmark),
        ("volumes", ", ".join(plan.volumes)),
        ("in use by", hosts or "nobody"),
        ("writes after it", f"{plan.later_writes}: production loses them, the journal keeps them"),
        ("to restore", f"at most {format_size(plan.touched_bytes)}"),
    ]
    if to_stderr:
        for name, value in facts:
            click.echo(f"{name}: {value}", err=True)
    else:
        print_facts(facts)
