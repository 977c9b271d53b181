package plots

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/vpclab/vpclab/metrics"
)

// makeFailoverTimeline draws what users see of a failover, by mode.
func makeFailoverTimeline(d *data) (*page, string, error) {
	const metric = "failover.rto"
	s := d.failoverRows(metric)
	if len(s.rows) == 0 {
		return nil, "", missingf("no samples of %s: no failover experiment has finished a trial in which the other seat took over", metric)
	}
	faults := ordered(s.rows, "fault", func(func(string)) {})
	fault := best(faults, func(f string) int {
		if f == "planned" {
			return 0
		}
		return 1 + len(s.of(metric, "fault", f))
	})
	var rows []moveTimeline
	ns := map[int]bool{}
	for _, m := range replicaModesOf(s.of(metric, "fault", fault)) {
		r := s.of(metric, "fault", fault, "mode", m.id)[0]
		t, err := d.failoverTrial(m, r)
		if err != nil {
			return nil, "", err
		}
		if len(t.responses) > 0 && len(t.phases) > 0 && len(rows) < maxTimelines {
			rows, ns[r.N] = append(rows, t), true
		}
	}
	if len(rows) == 0 {
		return nil, "", missingf("no trial of a failover has a %s", responsesName)
	}
	l := timelineLayout{rows: rows, since: "the fault"}
	pg := &page{width: doubleWidth, bodyHeight: l.height(), body: l.draw}
	for i, ph := range movePhases {
		if slices.ContainsFunc(rows, func(m moveTimeline) bool {
			return slices.ContainsFunc(m.phases, func(p phaseSpan) bool { return p.phase == i })
		}) {
			pg.legend = append(pg.legend, entry{ph.name, boxThumb(ph.look)})
		}
	}
	pg.legend = append(pg.legend, entry{"one answer", answerThumb}, entry{"median over time", lineThumb(medianLine)}, entry{"95th percentile", lineThumb(slowLine)})
	whole := typicalText("mode", "with the median recovery time", ns)
	pg.subtitle = []string{capital(faultText(fault)) + ". " + whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("What users of a VM see when %s: how long each answer took, by the moment of its question, on a logarithmic axis; above it what the recovery was made of. On the right, the time around it: questions from then wait until the VM runs in the other cloud and the network leads there. %s %s %s%s",
		faultText(fault), whole, s.heldText(), d.kernelText(), s.whichText(d, metric))
	return pg, caption, nil
}

// failoverTrial reads the trial of a mode with the median recovery time.
func (d *data) failoverTrial(m replicaMode, r metrics.PointSummary) (t moveTimeline, err error) {
	dirs, records := d.store.TrialDirs(r.Experiment)
	trial := d.typicalTrial(r)
	at := slices.IndexFunc(records, func(rec metrics.TrialRecord) bool {
		return rec.Trial == trial && metrics.PointText(rec.Point) == metrics.PointText(r.Labels)
	})
	if at < 0 {
		return t, nil
	}
	if _, err := os.Stat(filepath.Join(dirs[at], responsesName)); errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if t.phases, err = readPhases(filepath.Join(dirs[at], phasesName)); err != nil || len(t.phases) == 0 {
		return t, err
	}
	if t.responses, err = readResponses(filepath.Join(dirs[at], responsesName)); err != nil {
		return t, err
	}
	t.stop = slices.MinFunc(t.phases, func(a, b phaseSpan) int { return cmp.Compare(a.from, b.from) }).from
	t.start = slices.MaxFunc(t.phases, func(a, b phaseSpan) int { return cmp.Compare(a.to, b.to) }).to
	t.pause = t.start - t.stop
	t.title = fmt.Sprintf("%s: the first user is answered after %s", m.name, durationText(t.pause))
	return t, nil
}
