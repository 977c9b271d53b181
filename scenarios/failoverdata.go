package scenarios

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/replicate"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// store writes what a trial measured.
func (r *failoverTrial) store(seen *traffic.UsersResult) error {
	r.addRecovery(seen)
	r.addLedger("failover", seen)
	r.t.Add("failover.active", "count", float64(mostActive(r.log.drain(), r.experiment.VM)), nil)
	r.t.Add("failover.protected_again", "s", r.again.Seconds(), nil)
	r.t.Add("client.resets", "count", float64(brokenConnections(seen)), nil)
	r.t.Add("client.reconnects", "count", float64(seen.Reconnects), nil)
	r.addResponses(seen)
	r.addReplica()
	return r.t.WriteFile("responses.csv", responsesCSV(seen, r.at))
}

// addRecovery stores how long the VM was away, and what of it was what.
func (r *failoverTrial) addRecovery(seen *traffic.UsersResult) {
	ends, over := r.phasesOf(seen)
	took := 0.0
	if over {
		took = 1
		from := r.at
		for i, end := range ends {
			r.t.Add("failover."+failoverParts[i].name, "s", end.Sub(from).Seconds(), nil)
			from = end
		}
		r.t.Add("failover.rto", "s", from.Sub(r.at).Seconds(), nil)
		_ = r.t.WriteFile("phases.csv", r.partsCSV(ends)) // Commit reports what fails
	}
	r.t.Add("failover.took_over", "count", took, nil)
	r.t.Add("failover.gap", "s", gapAfter(seen.Answers, r.at, r.undone).Seconds(), nil)
}

// gapAfter is the longest time without an answer to any user that ends between
// two moments, less the usual one before them.
func gapAfter(answers []traffic.Answer, at, until event.Mono) time.Duration {
	var before, after []traffic.Answer
	for i, a := range answers {
		if a.Answered < at {
			before = append(before, a)
			continue
		}
		if a.Answered > until {
			break
		}
		if len(after) == 0 && i > 0 {
			after = append(after, answers[i-1])
		}
		after = append(after, a)
	}
	longest, _ := traffic.LongestSilence(after)
	return max(0, longest-traffic.UsualSilence(before))
}

// addLedger stores what became of what users were told.
func (r *failoverTrial) addLedger(of string, seen *traffic.UsersResult) {
	r.t.Add(of+".acked", "count", float64(seen.Account.Acked), nil)
	r.t.Add(of+".lost", "count", float64(seen.Account.Lost), nil)
	if of != "failover" {
		return
	}
	age := 0.0
	if seen.Account.OldestLost > 0 {
		age = max(0, r.at.Sub(seen.Account.OldestLost).Seconds())
	}
	r.t.Add("failover.rpo_time", "s", age, nil)
	r.t.Add("failover.rpo_bytes", "bytes", float64(seen.Account.LostBytes), nil)
}

// brokenConnections are those of users that somebody ended, whoever counted.
func brokenConnections(seen *traffic.UsersResult) int {
	broken := seen.Reconnects
	for _, f := range seen.Failures {
		if f.Reset {
			broken++
		}
	}
	return max(broken, seen.Resets)
}

// addResponses stores what users waited in each phase.
func (r *failoverTrial) addResponses(seen *traffic.UsersResult) {
	took := map[string][]time.Duration{}
	for _, a := range slices.Concat(r.before, seen.Answers) {
		switch {
		case a.Asked >= r.alone.from && a.Answered <= r.alone.to:
			took[phaseAlone] = append(took[phaseAlone], a.Took())
		case a.Asked >= r.protected.from && a.Answered <= r.protected.to:
			took[phaseProtected] = append(took[phaseProtected], a.Took())
		case a.Asked >= r.at && a.Answered <= r.undone:
			took[phaseAfter] = append(took[phaseAfter], a.Took())
		}
	}
	for phase, all := range took {
		for _, q := range quantiles {
			r.t.Add("client.response", "s", nearestRank(all, q).Seconds(), labels{"phase": phase, "quantile": fmt.Sprintf("p%d", q)})
		}
	}
	for phase, s := range map[string]stretch{phaseAlone: r.alone, phaseProtected: r.protected} {
		r.t.Add("client.rate", "1/s", float64(len(took[phase]))/s.to.Sub(s.from).Seconds(), labels{"phase": phase})
	}
}

// addReplica stores what protection cost.
func (r *failoverTrial) addReplica() {
	r.t.Add("replica.sync", "s", r.synced.Seconds(), nil)
	perSecond := func(s stretch) float64 { return float64(s.steps) / s.to.Sub(s.from).Seconds() }
	if with := perSecond(r.protected); with > 0 {
		r.t.Add("guest.overhead", "ratio", perSecond(r.alone)/with-1, nil)
	}
	rep, took := r.protected.replica, r.protected.to.Sub(r.protected.from).Seconds()
	r.t.Add("replica.bytes", "bytes", float64(rep.Bytes), nil)
	r.t.Add("replica.rate", "bit/s", 8*float64(rep.Bytes)/took, nil)
	r.t.Add("replica.epochs", "count", float64(rep.Epochs), nil)
	r.t.Add("replica.frequency", "1/s", float64(rep.Epochs)/took, nil)
	for metric, all := range map[string][]time.Duration{"replica.pause": rep.Pauses, "replica.commit": rep.Commits} {
		for _, q := range quantiles {
			if len(all) > 0 {
				r.t.Add(metric, "s", nearestRank(all, q).Seconds(), labels{"quantile": fmt.Sprintf("p%d", q)})
			}
		}
	}
}

// since is what replication did between two looks at it. Of pauses and commits
// the newest are kept. It is an error where it has begun anew meanwhile: on a busy
// machine the two seats may lose sight of each other.
func since(before, after replicate.Report) (replicate.Report, error) {
	if after.Epochs < before.Epochs || after.Bytes < before.Bytes {
		return replicate.Report{}, fmt.Errorf("the standby was lost while replication was watched, and has it anew: %d epochs are fewer than the %d before", after.Epochs, before.Epochs)
	}
	epochs := int(after.Epochs - before.Epochs)
	after.Bytes -= before.Bytes
	after.Epochs -= before.Epochs
	after.Pauses = after.Pauses[max(0, len(after.Pauses)-epochs):]
	after.Commits = after.Commits[max(0, len(after.Commits)-epochs):]
	return after, nil
}

// mostActive is how many seats of a VM ran at the same moment, at most, by what
// they say of themselves: when each took its first step, and its last. A seat
// whose host died ran until then.
func mostActive(events []event.Event, vm string) (most int) {
	type change struct {
		at   event.Mono
		host string
		on   bool
	}
	var changes []change
	for _, e := range events {
		switch {
		case e.Node == vm && (e.Kind == "pair.activated" || e.Kind == "pair.resumed"):
			changes = append(changes, change{e.T, e.Attr["host"], true})
		case e.Node == vm && e.Kind == "pair.lapsed":
			changes = append(changes, change{e.T, e.Attr["host"], false})
		case e.Node == vm && e.Kind == "pair.fenced":
			at := e.T
			if ran, err := strconv.ParseInt(e.Attr["ran"], 10, 64); err == nil && ran > 0 {
				at = min(at, event.Mono(ran))
			}
			changes = append(changes, change{at, e.Attr["host"], false})
		case e.Kind == "fault.injected" && (e.Attr["fault"] == topo.FaultHostCrash || e.Attr["fault"] == topo.FaultSiteDown):
			// With a prefix of a site's name all its hosts are meant.
			changes = append(changes, change{e.T, strings.ReplaceAll(e.Attr["host"]+e.Attr["site"], "/", "-h"), false})
		}
	}
	on := map[string]bool{}
	// In order of time; where two are at the same moment, ends come first.
	for len(changes) > 0 {
		first := 0
		for i, c := range changes {
			if c.at < changes[first].at || c.at == changes[first].at && !c.on && changes[first].on {
				first = i
			}
		}
		c := changes[first]
		changes = append(changes[:first], changes[first+1:]...)
		if c.on {
			on[c.host] = true
		} else {
			for host := range on {
				if host == c.host || strings.HasPrefix(host, c.host+"-h") {
					delete(on, host)
				}
			}
		}
		most = max(most, len(on))
	}
	return most
}
