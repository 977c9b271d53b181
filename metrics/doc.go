// Package metrics keeps what a run saw, and says what it means.
//
// Division of labour:
//
//   - record.go: the types that are stored (samples, trials, run facts,
//     reachability matrices, probe trains);
//   - store.go: one run's folder: create, open, judge;
//   - session.go: the stretches in which a run was done, and what differs
//     between them; to go on with a killed one;
//   - hold.go: the right to write into a folder;
//   - trial.go: one attempt at one trial, published by an atomic rename;
//   - adopt.go: trials that were done where the run's folder is not;
//   - finish.go: the aggregated files of a run; sums.go: their digests;
//   - disk.go: durable writes, and the one error for a full disk;
//   - fidelity.go: whether the emulation kept its promises in a trial; void.go:
//     what becomes of a trial in which it did not; runfidelity.go: the run's;
//   - slug.go: folder names of points, natural order;
//   - csv.go, bench.go: the two text formats for other people's tools;
//   - summary.go: medians with intervals;
//   - expect.go, quantity.go, eval.go: what a scenario demands of the numbers;
//   - claim.go: what it claims by them; number.go: values that others
//     published, beside those that were measured.
//
// The folder of a run:
//
//	results/<scenario>/<run-id>/
//	  run.json       facts of the run and its verdict ([RunInfo])
//	  trials/<experiment>/<point>/<n>/
//	                 trial.json, samples.csv, events.jsonl and evidence files
//	  .attempts/     trials not finished, and failed and void ones that were tried again
//	  SHA256SUMS     digests of all that was measured, for sha256sum -c
//	  trials.jsonl   every finished trial ([TrialRecord])
//	  samples.csv    every sample of every good trial
//	  void.csv       likewise of void trials, where there are any: not to be averaged
//	  fidelity.json  grades, and the worst of each invariant ([RunFidelity])
//	  events.jsonl   every event, with the trial it belongs to
//	  bench.txt      the same numbers in the Go benchmark format
//	  summary.json   median, interval, n, min and max a point and metric
//
// A trial is written to its own attempt folder, every file of it is flushed
// to the disk, and then the folder is renamed to its place under trials/. So
// a process that is killed at any moment leaves finished trials whole, and
// never half a trial where a whole one is looked for. The same holds of every
// other file: it is written under a name that nobody looks at (.tmp-…), and
// the run's folder itself is (.new-…). TestKilledAtEveryStep ends a run at each
// change of the file system that it makes.
//
// samples.csv is tidy data, one value a row, one column a label:
//
//	experiment,trial,metric,unit,value,sites,system,tenants
//	vpc-setup,1,setup.first_packet,s,0.41258,4,vpn,2
//
// The first five columns are always there and always first; the columns after
// them are the labels that any sample of the run has, in alphabetical order,
// and a cell is empty where a sample does not have that label. That is the
// form that R (dplyr, ggplot2) and pandas group, filter and facet by without
// any parsing:
//
//	pd.read_csv("samples.csv").query("metric == 'setup.first_packet'").groupby(["system", "sites"]).value.median()
//
// The package is pure: it runs on any OS, needs no privilege and imports
// nothing of emu, topo, scenarios or plots.
package metrics
