package scenarios

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/emu/wanopt"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// The experiment migration.
//
// A point is an algorithm on a WAN with a workload. In each trial the VMs are
// where the file has them and their guests begin anew: the same memory, the
// same disk, and the same seeded trace of writes from its beginning. Users in
// an enterprise's LAN use them. After the warm time the VMs move to the other
// host, and are watched until they are served from there; with return they
// move back and there again. The path between the two hosts' PEs has the
// point's rate and round-trip time; what else the file says of the network
// stays.
//
// Times are seconds by the lab kernel's monotonic clock.

// Phases of a migration: the values of the label "phase".
const (
	phaseBefore   = "before" // of response times
	phaseJoin     = "join"
	phaseDisk     = "disk" // asynchronous
	phaseSync     = "sync" // each write waits for the destination
	phaseMemory   = "memory"
	phaseHandover = "handover"
	phaseAfter    = "after" // of response times
)

// Parameters of the experiment.
const (
	paramAlgorithm = "algorithm"
	paramGuest     = "guest"
	paramWorkload  = "workload"
	paramRate      = "rate"
	paramRTT       = "rtt"
	paramScale     = "scale"
	paramMemory    = "memory"
	paramBlock     = "block"
	paramCache     = "cache"
	paramWindow    = "window"
	paramEncoders  = "encoders"
	paramGroup     = "group"
)

// How the VMs of a group arrive: values of the parameter "group".
const (
	groupAlone    = "each"         // each when it is ready
	groupTogether = "synchronized" // all when the last one is ready
)

// workloads of guests, see package guest.
var workloads = []string{"tpcw", "kernelbuild", "specjbb", "mmuncher", "idle", "trace"}

// scales by which published workloads of 1 GiB are made smaller.
var scales = []struct {
	name string
	of   float64
}{{"mini", 1.0 / 16}, {"quarter", 1.0 / 4}, {"full", 1}}

func migrationKind() kind {
	return kind{
		resolution: 50 * time.Millisecond,
		params: []param{
			word(paramAlgorithm, "an algorithm of memory migration", lab.Algorithms, func(*topo.Plan, topo.Experiment) string { return migrate.Own }),
			word(paramGuest, "a kind of guest", []string{topo.GuestProcess, topo.GuestQEMU}, kindOf),
			word(paramWorkload, "a workload", workloads, workloadOf),
			quantity(paramRate, "a rate of the path between the hosts", topo.ParseRate, 1e6, 100e9, func(p *topo.Plan, e topo.Experiment) string {
				return wanOf(p, e).rate.String()
			}),
			quantity(paramRTT, "a round-trip time of the path between the hosts", topo.ParseDuration, 0, topo.Duration(2*time.Second), func(p *topo.Plan, e topo.Experiment) string {
				return wanOf(p, e).rtt.String()
			}),
			word(paramScale, "a scale", scaleNames(), func(p *topo.Plan, e topo.Experiment) string {
				if _, varied := e.Vary.Get(paramMemory); varied {
					return ""
				}
				return scaleName(moverOf(p, e).Scale)
			}),
			quantity(paramMemory, "a memory", topo.ParseSize, 1<<20, 64<<30, absent),
			blockParam(),
			either(quantity(paramCache, "a cache", topo.ParseSize, 4<<10, 64<<30, absent), func(text string) bool { return !strings.HasSuffix(text, "%") }, shareParam(paramCache)),
			number(paramWindow, "a number of rounds", func(*topo.Plan) (int, int) { return 1, 30 }, nil).orAbsent(),
			encodersParam(),
			word(paramGroup, "a way to arrive", []string{groupAlone, groupTogether}, func(_ *topo.Plan, e topo.Experiment) string {
				switch {
				case len(e.Movers()) < 2:
					return ""
				case e.Synchronized:
					return groupTogether
				}
				return groupAlone
			}),
		},
		guests:    true,
		metricsOf: migrationMetrics,
		check:     checkMigration,
		open:      func(o opening) (session, error) { return openMigration(o) },
	}
}

// orAbsent makes a parameter one that points can be without.
func (p param) orAbsent() param {
	p.usual = absent
	return p
}

// blockParam is the size of a block of content redundancy elimination.
func blockParam() param {
	p := number(paramBlock, "a number of bytes", func(*topo.Plan) (int, int) { return 16, codec.PageSize }, nil).orAbsent()
	within := p.read
	p.read = func(plan *topo.Plan, text string) (string, *refusal) {
		normal, bad := within(plan, text)
		if n, err := strconv.Atoi(normal); bad == nil && err == nil && bits.OnesCount(uint(n)) != 1 {
			lower := 1 << (bits.Len(uint(n)) - 1)
			return "", &refusal{fmt.Sprintf("block %d is no power of two", n), fmt.Sprintf("did you mean %d?", lower)}
		}
		return normal, bad
	}
	return p
}

// shareParam is a share of the memory, such as 10%.
func shareParam(name string) param {
	return param{name: name, read: func(_ *topo.Plan, text string) (string, *refusal) {
		v, err := topo.ParsePercent(text)
		if err != nil {
			return "", refused(err)
		}
		if v == 0 {
			return "", &refusal{name + " of 0% holds nothing", "choose an algorithm without it"}
		}
		return v.String(), nil
	}}
}

// encodersParam are encoders in place of those of the algorithm, joined by
// plus signs.
func encodersParam() param {
	return param{name: paramEncoders, usual: absent, read: func(_ *topo.Plan, text string) (string, *refusal) {
		if _, err := codec.Parse(codec.Config{Pages: 1}, strings.Split(text, "+")); err != nil {
			return "", &refusal{err.Error(), "join several by plus signs, as zero+cbr+zstd-1"}
		}
		return text, nil
	}}
}

func scaleNames() (names []string) {
	for _, s := range scales {
		names = append(names, s.name)
	}
	return names
}

// scaleName is a scale's label.
func scaleName(of float64) string {
	for _, s := range scales {
		if s.of == of {
			return s.name
		}
	}
	return metrics.FormatValue(of)
}

// scaleOf is a scale by its name.
func scaleOf(name string) float64 {
	for _, s := range scales {
		if s.name == name {
			return s.of
		}
	}
	panic("scenarios: there is no scale " + name) // check let it through
}

// moverOf is the guest of the first VM that moves; without one, the zero guest.
func moverOf(plan *topo.Plan, e topo.Experiment) topo.Guest {
	for _, vm := range e.Movers() {
		if n, ok := plan.Node(vm); ok && n.Guest != nil {
			return *n.Guest
		}
	}
	return topo.Guest{}
}

// workloadOf is the workload of all VMs that move; "" where they differ.
func workloadOf(plan *topo.Plan, e topo.Experiment) string {
	same := moverOf(plan, e).Workload
	for _, vm := range e.Movers() {
		if n, ok := plan.Node(vm); ok && n.Guest != nil && n.Guest.Workload != same {
			return ""
		}
	}
	return same
}

// kindOf is the label of guests that are not processes.
func kindOf(plan *topo.Plan, e topo.Experiment) string {
	if k := moverOf(plan, e).Kind; k != topo.GuestProcess {
		return k
	}
	return ""
}

// wan is the path between the PEs of two hosts.
type wan struct {
	path []string      // routers
	rate topo.Rate     // of its slowest link, in the first direction; 0: no link has one
	rtt  topo.Duration // of all its links
}

// wanOf is the path that an experiment's VMs move over, from where the first
// of them is.
func wanOf(plan *topo.Plan, e topo.Experiment) (w wan) {
	if len(e.Movers()) == 0 {
		return w
	}
	vm, _ := plan.Node(e.Movers()[0])
	to, _, _ := strings.Cut(e.To, "/")
	site, ok := plan.Site(to)
	if vm == nil || !ok {
		return w
	}
	return wanBetween(plan, vm.Site, site.Name)
}

// wanBetween is the path between the PEs of two sites.
func wanBetween(plan *topo.Plan, from, to string) (w wan) {
	a, okA := plan.Site(from)
	b, okB := plan.Site(to)
	if !okA || !okB {
		return w
	}
	path, err := plan.Path(a.PE, b.PE)
	if err != nil {
		return w
	}
	w.path = path
	for i := range len(path) - 1 {
		out, back := between(plan, path[i], path[i+1])
		w.rtt += out.Delay + back.Delay
		if out.Rate > 0 && (w.rate == 0 || out.Rate < w.rate) {
			w.rate = out.Rate
		}
	}
	return w
}

// between is what the core link of two routers does, in either direction.
func between(plan *topo.Plan, a, b string) (out, back topo.Impairment) {
	for _, l := range plan.Links {
		switch {
		case l.Core && l.A.Node == a && l.B.Node == b:
			return l.AtoB, l.BtoA
		case l.Core && l.A.Node == b && l.B.Node == a:
			return l.BtoA, l.AtoB
		}
	}
	return out, back
}

// tuned is the plan with the path at a rate and a round-trip time, shared out
// evenly over its links.
func (w wan) tuned(plan *topo.Plan, rate topo.Rate, rtt time.Duration) *topo.Plan {
	links := len(w.path) - 1
	if links < 1 {
		return plan
	}
	each := topo.Duration(rtt / 2 / time.Duration(links))
	return plan.Tune(w.path, func(i topo.Impairment) topo.Impairment {
		return topo.Impairment{Rate: rate, Delay: each, Loss: i.Loss}
	})
}

// checkMigration reports what of a plan makes a migration impossible.
func checkMigration(plan *topo.Plan, e topo.Experiment) (msg, hint string) {
	_, byMemory := e.Vary.Get(paramMemory)
	_, byScale := e.Vary.Get(paramScale)
	if byMemory && byScale {
		return "vary has memory and scale, and each decides the other", "take one of them away"
	}
	for _, vm := range e.Movers() {
		n, ok := plan.Node(vm)
		if !ok {
			return fmt.Sprintf("there is no VM %s", vm), ""
		}
		switch {
		case n.Guest == nil:
			return fmt.Sprintf("VM %s has no guest: nothing runs in it that could move", vm), "give it memory, as in `memory: 64MiB`"
		case e.Disk && n.Guest.Disk == 0:
			return fmt.Sprintf("the disk is to move too, and VM %s has none", vm), "give it one, as in `disk: 64MiB`"
		}
		if v, ok := plan.VPC(n.VPC); ok && v.Service != topo.ServiceVPLS {
			return fmt.Sprintf("VM %s is in VPC %s, an %s: at another site it would need another address, and its connections would break", vm, n.VPC, v.Service), "take a vpls"
		}
	}
	if err := movable(plan, e); err != nil {
		return err.Error(), "an experiment has one algorithm for all of its kinds of guests: make two of it"
	}
	if e.QEMU != nil && !slices.ContainsFunc(algorithmsOf(e), lab.ByQEMU) {
		return "qemu is for migrations by QEMU itself, and none of the algorithms is one", "vary the algorithm: " + strings.Join(slices.Concat(vmm.Modes, wanopt.Variants), ", ")
	}
	w := wanOf(plan, e)
	_, rates := e.Vary.Get(paramRate)
	_, rtts := e.Vary.Get(paramRTT)
	switch {
	case len(w.path) == 1 && (rates || rtts):
		return fmt.Sprintf("both hosts are at PE %s: no core link is between them whose rate or round-trip time could be varied", w.path[0]), "choose a host at another PE"
	case w.rate == 0 && !rates && len(w.path) > 1:
		return "no link between the hosts has a rate: how long a migration takes would say how fast this computer is", "give the backbone a rate, or vary rate"
	case len(plan.Reservations) > 0 && rates:
		return "vary changes the rates of links on which bandwidth is reserved", "take the reservations or the rates away"
	}
	return "", ""
}

// kindsOf are the kinds of guests that move.
func kindsOf(plan *topo.Plan, e topo.Experiment) (kinds []string) {
	varied, _ := e.Vary.Get(paramGuest)
	for _, kind := range varied {
		kinds = append(kinds, string(kind))
	}
	for _, vm := range e.Movers() {
		if n, ok := plan.Node(vm); ok && n.Guest != nil && len(varied) == 0 {
			kinds = append(kinds, n.Guest.Kind)
		}
	}
	return kinds
}

// algorithmsOf are those that are varied.
func algorithmsOf(e topo.Experiment) (names []string) {
	varied, _ := e.Vary.Get(paramAlgorithm)
	for _, name := range varied {
		names = append(names, string(name))
	}
	return names
}

// movable tells why one of the algorithms cannot move one of the guests.
func movable(plan *topo.Plan, e topo.Experiment) error {
	for _, kind := range kindsOf(plan, e) {
		for _, algorithm := range algorithmsOf(e) {
			if err := lab.CanMove(kind, algorithm); err != nil {
				return err
			}
		}
	}
	return nil
}

// migrationMetrics are those of an experiment: what nobody looks at is not
// measured.
func migrationMetrics(plan *topo.Plan, e topo.Experiment) []metric {
	each := legLabels(e)
	phases := []string{phaseJoin, phaseMemory, phaseHandover}
	if e.Disk {
		phases = []string{phaseJoin, phaseDisk, phaseSync, phaseMemory, phaseHandover}
	}
	list := []metric{
		{"migration.total", "s", "from the beginning of the memory phase until the VM runs at the destination and nothing is missing there", each},
		{"migration.pause", "s", "the VM stands, by its own clock: from its last step at the source to its first at the destination", each},
		{"migration.join", "s", "the destination's site joins the VPC", each},
		{"migration.memory", "s", "the memory phase, until the VM stands", each},
		{"migration.handover", "s", "from when the VM stands until the network has it at the destination", each},
		{"migration.phases", "s", "each phase", cross(each, "phase", phases...)},
		{"migration.bytes", "bytes", "on the wire between the hosts, headers included", cross(each, "direction", "out", "back")},
		{"migration.payload", "bytes", "that the memory's connection carried from the source", each},
		{"migration.final_bytes", "bytes", "of them, while the VM stood", each},
		{"migration.rounds", "count", "iterations, the last one included", each},
		{"migration.verified", "count", "1: the 256-bit hashes of both memories are equal, and of both disks where they move; or, where QEMU moves a guest by itself, that has found all that it wrote", each},
		{"migration.reconnects", "count", "TCP connections between the hosts that had to be opened again", each},
		{"migration.cpu", "s", "that the engine took", cross(each, "side", "source", "target")},
		{"round.to_send", "pages", "dirty when the round began", inRounds(each)},
		{"round.sent", "pages", "sent in it", inRounds(each)},
		{"round.skipped", "pages", "left for a later round because they were dirty again", inRounds(each)},
		{"round.dirtied", "pages", "dirtied meanwhile", inRounds(each)},
		{"round.final", "pages", "sent and never sent again", inRounds(each)},
		{"round.bytes", "bytes", "of the round", inRounds(each)},
		{"round.final_bytes", "bytes", "of them, those of pages never sent again", inRounds(each)},
		{"round.took", "s", "the round", inRounds(each)},
		{"encoder.in", "bytes", "that an encoder took", cross(each, "encoder", encoderNames...)},
		{"encoder.out", "bytes", "that stand for them", cross(each, "encoder", encoderNames...)},
		{"encoder.units", "count", "pages or blocks", cross(each, "encoder", encoderNames...)},
		{"encoder.cpu", "s", "that it took", cross(each, "encoder", encoderNames...)},
		{"encoder.false", "count", "hits of a hash whose bytes were others", each},
		{"faults.demanded", "count", "pages that the VM stood at until they came", each},
		{"faults.prepaged", "count", "pages that came before it wanted them", each},
		{"faults.wait", "s", "how long it stood at one", cross(each, "quantile", quantileNames()...)},
	}
	if e.Disk {
		list = append(list,
			metric{"migration.disk", "s", "the disk is copied asynchronously", each},
			metric{"migration.sync", "s", "each write waits for the destination, until all is there", each},
			metric{"migration.disk_bytes", "bytes", "that the disk's connection carried from the source", each},
			metric{"disk.same", "pages", "not sent in the first round: the destination held what they hold", each},
			metric{"disk.sent", "pages", "sent in rounds", each},
			metric{"disk.synced", "pages", "sent as mirrored writes", each},
			metric{"disk.writes", "count", "writes that were mirrored", each},
			metric{"disk.wait", "s", "that a mirrored write waited for the destination", cross(each, "quantile", quantileNames()...)})
	}
	if len(e.Movers()) > 1 {
		legs := legLabels(topo.Experiment{VM: "one", Return: e.Return})
		list = append(list,
			metric{"group.total", "s", "from the request until the last VM runs at the destination and nothing is missing", legs},
			metric{"group.apart", "s", "from the first VM's arrival to the last one's", legs},
			metric{"group.bytes", "bytes", "of all VMs on the wire", cross(legs, "direction", "out", "back")},
			metric{"group.pause", "s", "mean pause of the VMs", legs})
	}
	if hasReal(plan, e) {
		list = append(list, realMetrics(each)...)
	}
	if e.Clients == nil {
		return list
	}
	var spans []string
	if spans = []string{phaseBefore, phaseMemory, phaseAfter}; e.Disk {
		spans = []string{phaseBefore, phaseDisk, phaseMemory, phaseAfter}
	}
	byVM := legLabels(topo.Experiment{VM: e.VM, VMs: e.VMs})
	return append(list,
		metric{"migration.gap", "s", "longest time without an answer to any user, less the usual one", each},
		metric{"client.response", "s", "of questions asked in a phase", cross(cross(byVM, "phase", spans...), "quantile", quantileNames()...)},
		metric{"client.done", "count", "transactions answered", byVM},
		metric{"client.resets", "count", "TCP connections of users that were reset", byVM},
		metric{"client.errors", "count", "users that something else ended", byVM},
		metric{"client.lost", "count", "transactions that were acknowledged and of which the VM knows nothing", byVM})
}

// encoderNames are the encoders that a migration can account for: stages of
// CloudNet's and of ours, checksums, and what the target does beside them.
var encoderNames = append([]string{"zero", "same", "copy", "found", "cbr", "delta", "literal", "check", "place"}, codec.Compressors...)

func quantileNames() (names []string) {
	for _, q := range quantiles {
		names = append(names, fmt.Sprintf("p%d", q))
	}
	return names
}

// cross gives each set of labels one more, with each of some values.
func cross(sets []labels, name string, values ...string) (out []labels) {
	for _, set := range sets {
		for _, v := range values {
			with := labels{name: v}
			for k, had := range set {
				with[k] = had
			}
			out = append(out, with)
		}
	}
	return out
}

// mostRounds are those that are stored as samples: the paper's algorithms have no
// more. Files of a trial have all.
const mostRounds = 31

// inRounds are labels of rounds; those that there will be, nobody knows.
func inRounds(sets []labels) []labels {
	var rounds []string
	for n := 1; n <= mostRounds; n++ {
		rounds = append(rounds, strconv.Itoa(n))
	}
	return cross(sets, "round", rounds...)
}

// legLabels tell the VMs of a group and the moves of a trial apart.
func legLabels(e topo.Experiment) []labels {
	sets := []labels{{}}
	if len(e.Movers()) > 1 {
		sets = cross(sets, "vm", e.Movers()...)
	}
	if e.Return == 0 {
		return sets
	}
	var legs []string
	for n := range e.Return + 1 {
		legs = append(legs, legName(n))
	}
	return cross(sets, "leg", legs...)
}

// legName numbers the moves of a trial: out-1, back-1, out-2 …
func legName(n int) string {
	return fmt.Sprintf("%s-%d", []string{"out", "back"}[n%2], n/2+1)
}

// hostNode is the node of a host that a file names site/number.
func hostNode(plan *topo.Plan, host string) string {
	name, number, _ := strings.Cut(host, "/")
	site, _ := plan.Site(name)
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > len(site.Hosts) {
		return ""
	}
	return site.Hosts[n-1]
}

// hostFile is the other way round.
func hostFile(plan *topo.Plan, node string) string {
	for _, s := range plan.Sites {
		if i := slices.Index(s.Hosts, node); i >= 0 {
			return fmt.Sprintf("%s/%d", s.Name, i+1)
		}
	}
	return node
}
