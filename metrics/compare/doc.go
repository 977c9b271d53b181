// Package compare tells whether a new version is worse than an old one, from
// the stored results of both.
//
// Division of labour:
//
//   - side.go: the runs of one side, each trial reduced to one value a metric;
//   - match.go: experiment × point × metric on both sides, and what stands
//     against comparing them at all;
//   - direction.go: of which metrics less is better, of which more;
//   - family.go: the metrics that decide, named before anybody looks at values;
//   - ranks.go: the exact Mann–Whitney test; shift.go: how large the
//     difference is, with its interval; holm.go: many tests at once;
//   - judge.go: what is a regression; aa.go: how often it would be called one
//     where there is none;
//   - text.go, markdown.go, junit.go: the outcome for people and programs;
//   - baseline.go: results that are kept to compare with.
//
// The order of judgement is that of trust. Counters that do not depend on
// chance come first and need no statistics: what was the same in every trial
// and is not now has changed. Times, rates and counters that vary are
// statistics: a regression is a difference that is significant after Holm's
// correction over a stated family of metrics, that goes in the bad direction,
// and whose interval reaches the threshold. All other metrics are compared too
// and printed apart; they decide nothing.
//
// What cannot be decided (too few trials, a family too large for so few, a
// metric that one side lacks) is said and never passes for equal. Trials whose
// fidelity is void are left out, and counted.
//
// The package reads results and imports nothing of vpclab but metrics.
package compare
