"""What the demo's figures mean, in words, against what it set out to show."""

from __future__ import annotations

from typing import Any

Verdict = tuple[bool, str]


def verdicts(figures: dict[str, Any]) -> list[Verdict]:
    """Sentences on the run, each with whether what it speaks of was reached."""
    return [_loss(figures['record']), _collapse(figures['latent']), _probe(figures['probe']),
            *_plan(figures['plan']), *_surprise(figures['surprise']), _wall(figures['wall_s'])]


def _loss(record: dict[str, Any]) -> Verdict:
    return record['lost'] == 0, (f'{record["lost"]} of {record["frames"] + record["commands"]} '
                                 'recorded frames and commands were lost')


def _collapse(latent: dict[str, Any]) -> Verdict:
    low, rank = latent['std_min'], latent['effective_rank']
    if low > 0.5 and rank > 5:
        return True, (f'the latents are spread out: smallest std {low:.2f} (above 0.5), effective '
                      f'rank {rank:.1f} (above 5)')
    # The rank of what hardly varies is noise, so a low spread is said alone.
    found = (f'effective rank {rank:.1f} (should be above 5)' if low > 0.5
             else f'smallest std {low:.3f} (should be above 0.5)')
    if low > 0.1 and rank > 2:
        return False, f'the latents are less spread out than they should be: {found}; train longer'
    return False, (f'the latents have collapsed: {found}; the pictures are no longer told apart, '
                   'so planning and surprise mean nothing; raise model.sigreg_weight')


def _probe(probe: dict[str, Any]) -> Verdict:
    return probe['r2_min'] >= 0.95, (f'position reads out of the latents linearly with R² '
                                     f'{probe["r2_min"]:.3f} at the least (aim 0.95)')


def _plan(plan: dict[str, Any]) -> list[Verdict]:
    reached = round(plan['success_rate'] * plan['goals'])
    return [
        (plan['success_rate'] >= 0.85,
         f'{reached} of {plan["goals"]} goals reached ({100 * plan["ci_low"]:.0f}–'
         f'{100 * plan["ci_high"]:.0f} %, aim 85 %), strictly '
         f'{100 * plan["strict_success_rate"]:.0f} %; at real time '
         f'{100 * plan["realtime_success_rate"]:.0f} % of {plan["realtime_goals"]}'),
        (plan['random_success_rate'] <= 0.15,
         f'without planning: random {100 * plan["random_success_rate"]:.0f} % (at most 15 %), '
         f'straight line {100 * plan["line_success_rate"]:.0f} %, holding still '
         f'{100 * plan["hold_success_rate"]:.0f} %'),
        (plan['action_limit_violations'] == 0,
         f'{plan["action_limit_violations"]} published commands were outside their limits')]


def _surprise(surprise: dict[str, Any]) -> list[Verdict]:
    low, high = surprise['false_alarm_ci_low'], surprise['false_alarm_ci_high']
    kept = low <= surprise['promised_per_hour'] <= high
    minutes = 60 * surprise['normal_hours']
    return [
        (surprise['teleports_detected'] == surprise['teleports']
         and surprise['detection_delay_blocks_max'] <= 1,
         f'{surprise["teleports_detected"]} of {surprise["teleports"]} teleports detected'
         + _slowest(surprise['detection_delay_blocks_max'])),
        (kept, f'{surprise["false_alarms"]} false alarms in {minutes:.0f} ordinary minutes '
         f'({surprise["false_alarms_by_score"]} by the score of a single block, '
         f'{surprise["false_alarms_by_sum"]} by the sum of what lasts), {low:.2f} to '
         f'{high:.2f} an hour; {surprise["promised_per_hour"]:g} were promised')]


def _slowest(blocks: float) -> str:
    """The greatest delay in words; nothing where none was detected."""
    if blocks <= 1:
        return ', each of these within one block'
    return f', the slowest in block {blocks:g} (aim: the first)' if blocks > 1 else ''


def _wall(wall_s: float) -> Verdict:
    return wall_s <= 360, f'{wall_s:.0f} s in all (aim: at most 360 s on two cores)'
