package topo

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Kinds of experiments that keys are for.
const (
	kindMigration     = "migration"
	kindReconvergence = "reconvergence"
	kindFailover      = "failover"
	kindAvailability  = "availability"
)

// onlyOf are keys of experiments, and the kinds that take them; others are for
// all kinds, or have their own checks.
func onlyOf(e Experiment) []onlyKey {
	vms := []string{kindMigration, kindFailover, kindAvailability}
	move, fail := []string{kindMigration}, []string{kindFailover}
	return []onlyKey{
		{"vm", e.VM != "", vms}, {"vms", len(e.VMs) > 0, move}, {"to", e.To != "", move}, {"disk", e.Disk, move},
		{"clients", e.Clients != nil, vms}, {"qemu", e.QEMU != nil, move}, {"synchronized", e.Synchronized, move}, {"return", e.Return != 0, move},
		{"stay", e.Stay != 0, move}, {"warm", e.Warm != 0, append(move, fail...)},
		{"between", len(e.Between) > 0, []string{kindReconvergence}}, {"watch", e.Watch != 0, append(fail, kindReconvergence)},
		{"lasts", e.Lasts != 0, []string{kindAvailability}}, {"mtbf", e.MTBF != 0, []string{kindAvailability}},
	}
}

type onlyKey struct {
	key   string
	given bool
	kinds []string
}

// fillByMigration fills in the defaults that only the experiment migration has.
func (e *Experiment) fillByMigration() {
	if e.Warm == 0 {
		e.Warm = Duration(1e9)
	}
}

// Movers are the VMs that an experiment moves.
func (e Experiment) Movers() []string {
	if e.VM != "" {
		return []string{e.VM}
	}
	return e.VMs
}

// andOf joins words as a sentence does.
func andOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// migration checks who moves, or is protected, where to, and who looks on.
func (c *checker) migration(f fullScenario, i int, e Experiment) {
	at := func(key ...any) []string { return path(append([]any{"experiments", i}, key...)...) }
	for _, k := range onlyOf(e) {
		if k.given && e.Kind != "" && !slices.Contains(k.kinds, e.Kind) {
			takes := "takes"
			if len(k.kinds) > 1 {
				takes = "take"
			}
			c.faultKey(at(k.key), fmt.Sprintf("only %s %s %s, and this is %s", andOf(k.kinds), takes, k.key, e.Kind), "")
		}
	}
	switch e.Kind {
	case kindFailover, kindAvailability:
		if e.VM != "" {
			c.knownVM(f, e.VM, at("vm"))
		}
		c.clients(f, e, at)
	case kindReconvergence:
		for j, name := range e.Between {
			if slices.Index(e.Between, name) < j {
				c.fault(at("between", j), name+" is there twice; expected two machines", "")
			}
		}
	}
	if e.Kind != kindMigration {
		return
	}
	vms := f.VMs.Names()
	switch {
	case c.touched(at("vm")...) || c.touched(at("vms")...):
	case e.VM == "" && len(e.VMs) == 0:
		c.fault(at("kind"), "a migration needs somebody who moves; expected vm, or vms", "add for example `vm: "+firstOr(vms, "shop")+"`")
	case e.VM != "" && len(e.VMs) > 0:
		c.faultKey(at("vms"), "there is vm already; expected one of the two", "")
	}
	for j, vm := range e.Movers() {
		key := at("vms", j)
		if e.VM != "" {
			key = at("vm")
		}
		c.mover(f, vm, key)
		if slices.Index(e.Movers(), vm) < j {
			c.fault(key, fmt.Sprintf("%s is in the list twice", vm), "")
		}
	}
	c.destination(f, e, at)
	c.clients(f, e, at)
	c.ofQEMU(e, at)
	for key, lonely := range map[string]bool{"synchronized": e.Synchronized && len(e.Movers()) == 1, "stay": e.Stay != 0 && e.Return == 0} {
		if lonely {
			c.faultKey(at(key), key+" means nothing here", map[string]string{"synchronized": "it is for several VMs: give vms", "stay": "it is for VMs that move again: give return"}[key])
		}
	}
}

// mover checks one VM that moves.
func (c *checker) mover(f fullScenario, vm string, at []string) {
	c.knownVM(f, vm, at)
	if v, ok := f.VMs.Get(vm); ok && v.Standby != nil && !c.touched("vms") && !c.lost(at...) {
		c.fault(at, fmt.Sprintf("%s is protected by a standby at %s, and is not migrated; expected a VM without one", vm, v.Standby.Host), "")
	}
}

// knownVM reports a VM that is not there.
func (c *checker) knownVM(f fullScenario, vm string, at []string) {
	if vm == "" || c.touched("vms") || c.touched("generate") || c.lost(at...) {
		return
	}
	if _, ok := f.VMs.Get(vm); !ok {
		c.fault(at, fmt.Sprintf("there is no VM %q in vms; expected %s", vm, oneOf(f.VMs.Names())), suggest(vm, f.VMs.Names()))
	}
}

// destination checks the host that VMs move to.
func (c *checker) destination(f fullScenario, e Experiment, at func(...any) []string) {
	hosts := f.hosts()
	switch {
	case c.touched(at("to")...) || c.touched("topology", "sites"):
		return
	case e.To == "":
		c.fault(at("kind"), "a migration needs a host to move to; expected to", "add for example `to: "+firstOr(hosts, "illinois/1")+"`")
		return
	case !slices.Contains(hosts, e.To):
		c.fault(at("to"), fmt.Sprintf("there is no host %q; expected %s", e.To, oneOf(hosts)), suggest(e.To, hosts))
		return
	}
	for _, vm := range e.Movers() {
		if v, ok := f.VMs.Get(vm); ok && v.Host == e.To {
			c.fault(at("to"), fmt.Sprintf("%s is at %s already; expected another host", vm, e.To), "")
		}
	}
}

// clients checks where the users sit.
func (c *checker) clients(f fullScenario, e Experiment, at func(...any) []string) {
	if e.Clients == nil || e.Clients.From == "" || c.touched("topology", "sites") || c.touched("vpcs") {
		return
	}
	site, ok := f.Topology.Sites.Get(e.Clients.From)
	switch sites := f.Topology.Sites.Names(); {
	case !ok:
		c.fault(at("clients", "from"), fmt.Sprintf("there is no site %q; expected %s", e.Clients.From, oneOf(sites)), suggest(e.Clients.From, sites))
		return
	case site.Machines == 0:
		c.fault(at("clients", "from"), fmt.Sprintf("site %s has no machines for users to sit at; expected a site with machines", e.Clients.From), "")
		return
	}
	for _, vm := range e.Movers() {
		v, ok := f.VMs.Get(vm)
		if !ok {
			continue
		}
		if vpc, ok := f.VPCs.Get(v.VPC); ok && !slices.Contains(slices.Concat(vpc.Sites, vpc.Subnets.Names()), e.Clients.From) {
			c.fault(at("clients", "from"), fmt.Sprintf("VPC %s of %s is not at site %s; expected one of its sites", v.VPC, vm, e.Clients.From), "add it to the VPC's sites: "+strings.Join(append(slices.Clone(vpc.Sites), e.Clients.From), ", "))
		}
	}
}

// Bounds that QEMU has: of max-bandwidth, below which it would never end, and of
// downtime-limit.
const (
	leastQEMURate = 64 * Rate(1000)
	mostDowntime  = Duration(2000e9)
)

// ofQEMU checks what QEMU would refuse.
func (c *checker) ofQEMU(e Experiment, at func(...any) []string) {
	q := e.QEMU
	if q == nil {
		return
	}
	if r := q.MaxBandwidth; r != 0 && r < leastQEMURate {
		c.fault(at("qemu", "max-bandwidth"), fmt.Sprintf("%s is too little; expected at least %s", r, leastQEMURate), "")
	}
	if d := q.DowntimeLimit; d != 0 && (d < 1e6 || d > mostDowntime) {
		c.fault(at("qemu", "downtime-limit"), fmt.Sprintf("%s is out of range; expected %s to %s", d, Duration(1e6), mostDowntime), "")
	}
	if s := q.XBZRLECacheSize; s != 0 && (s < pageSize || s&(s-1) != 0) {
		lower := max(pageSize, 1<<(bits.Len64(uint64(s))-1))
		c.fault(at("qemu", "xbzrle-cache-size"), fmt.Sprintf("%s is no power of two; expected one of at least %s", s, pageSize), didYouMean(lower.String()))
	}
}

// numbers checks which experiments published values are held against: what
// they say is judged elsewhere.
func (c *checker) numbers(claim Claim, at []string, experiments []string) {
	for j, n := range claim.Numbers {
		at := append(slices.Clone(at), "numbers", fmt.Sprint(j), "experiment")
		if n.Experiment != "" && !c.touched("experiments") && !c.lost(at...) && !slices.Contains(experiments, n.Experiment) {
			c.fault(at, fmt.Sprintf("there is no experiment %q; expected %s", n.Experiment, oneOf(experiments)), suggest(n.Experiment, experiments))
		}
	}
}

// firstOr is the first of a list, or what stands for it where there is none.
func firstOr(list []string, otherwise string) string {
	if len(list) == 0 {
		return otherwise
	}
	return list[0]
}
