package scenarios

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/topo"
)

func encodersIn(text string) []string { return strings.Split(text, "+") }

// store writes what a trial measured.
func (r *migrationTrial) store(seen map[string]*traffic.UsersResult) error {
	group := len(r.experiment.Movers()) > 1
	for _, l := range r.legs {
		for _, vm := range slices.Sorted(maps.Keys(l.moved)) {
			m, set := l.moved[vm], r.labelsOf(vm, l)
			if n, ok := r.plan.Node(vm); ok && n.Guest.Kind == topo.GuestQEMU {
				r.addReal(m, set)
			}
			r.addMoved(m, set)
			if u := seen[vm]; u != nil && !m.diverged {
				r.t.Add("migration.gap", "s", gap(u.Answers, m).Seconds(), set)
			}
			name := "migration" + suffixOf(set) + ".json"
			if err := r.t.WriteJSON(name, struct {
				migrate.Report
				Disk    *migrate.DiskReport `json:",omitempty"`
				QEMU    *vmm.Stats          `json:",omitempty"`
				Checked *guest.Verification `json:",omitempty"`
			}{m.Report, m.disk, m.qemu, m.checked}); err != nil {
				return err
			}
			if err := r.t.WriteFile("rounds"+suffixOf(set)+".csv", roundsCSV(m)); err != nil {
				return err
			}
			if err := r.t.WriteFile("phases"+suffixOf(set)+".csv", phasesCSV(m, r.first(vm).requested)); err != nil {
				return err
			}
		}
		if group && !l.diverged() {
			r.addGroup(l)
		}
	}
	for _, vm := range slices.Sorted(maps.Keys(seen)) {
		set := labels{}
		if group {
			set["vm"] = vm
		}
		r.addUsers(vm, seen[vm], set)
		if err := r.t.WriteFile("responses"+suffixOf(set)+".csv", responsesCSV(seen[vm], r.first(vm).requested)); err != nil {
			return err
		}
	}
	return nil
}

// labelsOf tell a VM's move from the others of the trial.
func (r *migrationTrial) labelsOf(vm string, l leg) labels {
	set := labels{}
	if len(r.experiment.Movers()) > 1 {
		set["vm"] = vm
	}
	if r.experiment.Return > 0 {
		set["leg"] = l.name
	}
	return set
}

// suffixOf is a set of labels as a part of a file's name.
func suffixOf(set labels) (text string) {
	for _, k := range slices.Sorted(maps.Keys(set)) {
		text += "-" + set[k]
	}
	return text
}

// first is a VM's first move.
func (r *migrationTrial) first(vm string) *moved { return r.legs[0].moved[vm] }

// with is a set of labels with one more.
func (set labels) with(name, value string) labels {
	out := maps.Clone(set)
	out[name] = value
	return out
}

// addMoved stores one migration.
func (r *migrationTrial) addMoved(m *moved, set labels) {
	seconds := func(metric string, d time.Duration, set labels) { r.t.Add(metric, "s", max(0, d).Seconds(), set) }
	bytes := func(metric string, n int64, set labels) { r.t.Add(metric, "bytes", float64(n), set) }
	count := func(metric string, n int, set labels) { r.t.Add(metric, "count", float64(n), set) }

	if !m.diverged {
		seconds("migration.total", m.Done.Sub(m.Began), set)
		seconds("migration.pause", m.ResumedAt.Sub(m.PausedAt), set)
		for _, p := range r.phasesOf(m) {
			seconds("migration.phases", p.took, set.with("phase", p.name))
			seconds("migration."+p.name, p.took, set)
		}
	}
	bytes("migration.bytes", m.wireOut, set.with("direction", "out"))
	bytes("migration.bytes", m.wireBack, set.with("direction", "back"))
	bytes("migration.payload", m.BytesOut, set)
	final := int64(0)
	for _, round := range m.Rounds {
		if round.Paused {
			final += round.Bytes
		}
	}
	bytes("migration.final_bytes", final, set)
	count("migration.rounds", len(m.Rounds), set)
	if !m.diverged {
		count("migration.verified", r.verified(m), set)
	}
	count("migration.reconnects", m.Reconnects, set)
	seconds("migration.cpu", m.CPU.Source, set.with("side", "source"))
	seconds("migration.cpu", m.CPU.Target, set.with("side", "target"))
	if d := m.disk; d != nil {
		bytes("migration.disk_bytes", d.BytesOut, set)
		for name, n := range map[string]int{"same": d.Same, "sent": d.Sent, "synced": d.Synced} {
			r.t.Add("disk."+name, "pages", float64(n), set)
		}
		count("disk.writes", d.Writes, set)
		r.addWaits("disk.wait", d.Waits, set)
	}
	for i, round := range m.Rounds[:min(mostRounds, len(m.Rounds))] {
		r.addRound(round, set.with("round", strconv.Itoa(i+1)))
	}
	r.addEncoders(m.Encoders, set)
	count("faults.demanded", m.Faults.Demanded, set)
	count("faults.prepaged", m.Faults.Prepaged, set)
	r.addWaits("faults.wait", m.Faults.Waits, set)
}

// addWaits stores quantiles of times that somebody waited; nothing where nobody
// did.
func (r *migrationTrial) addWaits(metric string, waits []time.Duration, set labels) {
	if len(waits) == 0 {
		return
	}
	for _, q := range quantiles {
		r.t.Add(metric, "s", nearestRank(waits, q).Seconds(), set.with("quantile", fmt.Sprintf("p%d", q)))
	}
}

// span is a phase and how long it took.
type span struct {
	name string
	took time.Duration
}

// phasesOf are the phases of a migration in their order.
func (r *migrationTrial) phasesOf(m *moved) []span {
	spans := []span{{phaseJoin, m.joined.Sub(m.requested)}}
	if d := m.disk; d != nil {
		spans = append(spans, span{phaseDisk, d.Asynchronous()}, span{phaseSync, d.Settled.Sub(d.InStep)})
	}
	return append(spans, span{phaseMemory, m.PausedAt.Sub(m.Began)}, span{phaseHandover, m.reached.Sub(m.PausedAt)})
}

// verified is 1 where both ends have proven that they held the same; or where QEMU
// has moved the VM by itself, and the VM finds all that it wrote.
func (r *migrationTrial) verified(m *moved) int {
	if m.Hash == "" && m.qemu != nil {
		if m.checked != nil && m.checked.Pages > 0 && m.checked.Bad == 0 {
			return 1
		}
		return 0
	}
	if m.Hash == "" || m.Verify.Unproven > 0 || m.disk != nil && m.disk.Hash == "" {
		return 0
	}
	return 1
}

func (r *migrationTrial) addRound(round migrate.Round, set labels) {
	for name, n := range map[string]int{"to_send": round.ToSend, "sent": round.Sent, "skipped": round.Skipped, "dirtied": round.Dirtied, "final": round.Final} {
		r.t.Add("round."+name, "pages", float64(n), set)
	}
	r.t.Add("round.bytes", "bytes", float64(round.Bytes), set)
	r.t.Add("round.final_bytes", "bytes", float64(round.FinalBytes), set)
	r.t.Add("round.took", "s", max(0, round.Ended.Sub(round.Began)).Seconds(), set)
}

// addEncoders stores what each encoder did; what both ends account for under
// one name is one encoder.
func (r *migrationTrial) addEncoders(uses []migrate.EncoderUse, set labels) {
	wrong := int64(0)
	defer func() { r.t.Add("encoder.false", "count", float64(wrong), set) }()
	for _, u := range uses {
		of := set.with("encoder", u.Name)
		wrong += u.False
		r.t.Add("encoder.in", "bytes", float64(u.In), of)
		r.t.Add("encoder.out", "bytes", float64(u.Out), of)
		r.t.Add("encoder.units", "count", float64(u.Units), of)
		r.t.Add("encoder.cpu", "s", u.CPU.Seconds(), of)
	}
}

// addGroup stores what the VMs of a leg were together.
func (r *migrationTrial) addGroup(l leg) {
	set := labels{}
	if r.experiment.Return > 0 {
		set["leg"] = l.name
	}
	var out, back int64
	var pause time.Duration
	all := slices.Collect(maps.Values(l.moved))
	requested, done, first, last := all[0].requested, all[0].Done, all[0].ResumedAt, all[0].ResumedAt
	for _, m := range all {
		out, back, pause = out+m.wireOut, back+m.wireBack, pause+m.ResumedAt.Sub(m.PausedAt)
		requested, done = min(requested, m.requested), max(done, m.Done)
		first, last = min(first, m.ResumedAt), max(last, m.ResumedAt)
	}
	r.t.Add("group.total", "s", done.Sub(requested).Seconds(), set)
	r.t.Add("group.apart", "s", last.Sub(first).Seconds(), set)
	r.t.Add("group.bytes", "bytes", float64(out), set.with("direction", "out"))
	r.t.Add("group.bytes", "bytes", float64(back), set.with("direction", "back"))
	r.t.Add("group.pause", "s", (pause / time.Duration(len(all))).Seconds(), set)
}

// gap is the longest silence of the users around a hand-over, less the usual
// one: an answer comes somewhat after the moment at which it could.
func gap(answers []traffic.Answer, m *moved) time.Duration {
	before, around := []traffic.Answer{}, []traffic.Answer{}
	for _, a := range answers {
		if a.Answered < m.requested {
			before = append(before, a)
		}
	}
	// From the last answer before the VM stood, to the first asked after it ran.
	from := sort.Search(len(answers), func(i int) bool { return answers[i].Answered >= m.PausedAt })
	for i := max(0, from-1); i < len(answers); i++ {
		around = append(around, answers[i])
		if answers[i].Asked > m.ResumedAt {
			break
		}
	}
	longest, _ := traffic.LongestSilence(around)
	return max(0, longest-traffic.UsualSilence(before))
}

// addUsers stores what the users of a VM saw.
func (r *migrationTrial) addUsers(vm string, seen *traffic.UsersResult, set labels) {
	resets, others := seen.Resets, 0
	for _, f := range seen.Failures {
		if !f.Reset {
			others++
		}
	}
	if n := len(seen.Failures) - others; n > resets { // one that the kernel did not count
		resets = n
	}
	r.t.Add("client.done", "count", float64(len(seen.Answers)), set)
	r.t.Add("client.resets", "count", float64(resets), set)
	r.t.Add("client.errors", "count", float64(others), set)
	r.t.Add("client.lost", "count", float64(seen.Lost), set)
	took := map[string][]time.Duration{}
	for _, a := range seen.Answers {
		phase := r.phaseAt(vm, a.Asked)
		took[phase] = append(took[phase], a.Took())
	}
	for phase, all := range took {
		for _, q := range quantiles {
			r.t.Add("client.response", "s", nearestRank(all, q).Seconds(), set.with("phase", phase).with("quantile", fmt.Sprintf("p%d", q)))
		}
	}
}

// phaseAt is the phase that a VM was in at a moment; between two moves it is
// after the one before.
func (r *migrationTrial) phaseAt(vm string, at event.Mono) string {
	phase := phaseBefore
	for _, l := range r.legs {
		m := l.moved[vm]
		switch {
		case at >= m.ResumedAt && !m.diverged:
			phase = phaseAfter
		case at >= m.Began:
			return phaseMemory
		case m.disk != nil && at >= m.disk.Began:
			return phaseDisk
		default:
			return phase
		}
	}
	return phase
}

// nearestRank is the q-th percentile of values, always one of them.
func nearestRank(values []time.Duration, q int) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, (q*len(sorted)+99)/100-1)]
}

// responsesCSV are all response times, in order of the questions; times count
// from the request to move.
func responsesCSV(seen *traffic.UsersResult, zero event.Mono) []byte {
	var b bytes.Buffer
	b.WriteString("t_s,response_s,user\n")
	answers := slices.SortedStableFunc(slices.Values(seen.Answers), func(a, c traffic.Answer) int { return int(a.Asked - c.Asked) })
	for _, a := range answers {
		fmt.Fprintf(&b, "%.6f,%.6f,%d\n", a.Asked.Sub(zero).Seconds(), a.Took().Seconds(), a.User)
	}
	return b.Bytes()
}

// roundsCSV are the rounds; times count from the beginning of the memory phase.
func roundsCSV(m *moved) []byte {
	var b bytes.Buffer
	b.WriteString("round,began_s,took_s,to_send,sent,skipped,dirtied,final,bytes,paused\n")
	for i, r := range m.Rounds {
		fmt.Fprintf(&b, "%d,%.6f,%.6f,%d,%d,%d,%d,%d,%d,%t\n", i+1, r.Began.Sub(m.Began).Seconds(), r.Ended.Sub(r.Began).Seconds(),
			r.ToSend, r.Sent, r.Skipped, r.Dirtied, r.Final, r.Bytes, r.Paused)
	}
	return b.Bytes()
}
