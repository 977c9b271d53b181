package topo

import (
	"fmt"
	"hash/fnv"
	"path/filepath"
	"slices"
)

// Scales of process guests and the memory that each gives one.
var scales = map[string]Size{"mini": 64 << 20, "quarter": 256 << 20, "full": fullMemory}

const (
	// fullMemory is that of the published workloads at scale 1.
	fullMemory = Size(1 << 30)
	// pageSize is the unit of a guest's memory and disk.
	pageSize = Size(4096)

	minMemory    = Size(1 << 20)
	defaultScale = "quarter"
	defaultPort  = 80

	// GuestProcess and GuestQEMU are the kinds of guests.
	GuestProcess = "process"
	GuestQEMU    = "qemu"

	// ofGuestKernel is what a QEMU guest's kernel and the program in it take of
	// its memory beside the workload: 80 MiB were measured, and as much as it takes
	// to be at ease. It needs a perPage-th of the workload's memory more to keep
	// books on that, and some to spare.
	ofGuestKernel = Size(96 << 20)
	perPage       = 32
	// ofQEMU is what the program QEMU itself takes, at each host.
	ofQEMU = Size(96 << 20)

	workloadIdle = "idle"
	workloadLog  = "trace"
)

// fillByGuest fills in the defaults of what has a guest.
func (v *VM) fillByGuest() {
	if v.Guest == "" && (v.Memory != 0 || v.Scale != "") {
		v.Guest = GuestProcess
	}
	if v.Guest == "" {
		return
	}
	if v.Memory == 0 {
		v.Memory = scales[cmpOr(v.Scale, defaultScale)]
		if v.Guest == GuestQEMU {
			v.Memory = withKernel(v.Memory)
		}
	}
	if v.Workload == "" {
		v.Workload = workloadIdle
	}
	if v.Port == 0 {
		v.Port = defaultPort
	}
}

// guests tells whether any VM has one.
func (f fullScenario) guests() bool {
	return slices.ContainsFunc(f.VMs, func(e Entry[VM]) bool { return e.Value.Guest != "" })
}

// guest is what runs in a VM; nil: nothing.
func (f fullScenario) guest(e Entry[VM]) *Guest {
	v := e.Value
	if v.Guest == "" {
		return nil
	}
	g := &Guest{
		Kind: v.Guest, Image: f.beside(v.Image), Kernel: f.beside(v.Kernel),
		Memory: v.Memory, Work: v.Memory, Disk: v.Disk, Workload: v.Workload, Port: v.Port, Trace: f.beside(v.Trace),
	}
	if g.Kind == GuestQEMU {
		g.Work = besideKernel(g.Memory)
	}
	g.Scale = float64(g.Work) / float64(fullMemory)
	if v.Scale != "" {
		g.Scale = float64(scales[v.Scale]) / float64(fullMemory)
	}
	return g.like(f.Seed, e.Name)
}

// As is the guest as one of another kind with the same work on as much memory.
func (g Guest) As(kind string) Guest {
	g.Kind = kind
	return g.WithWork(g.Work)
}

// WithWork is the guest with as much memory as its work takes, and its kernel
// where it has one.
func (g Guest) WithWork(work Size) Guest {
	g.Work, g.Memory = work, work
	if g.Kind == GuestQEMU {
		g.Memory = withKernel(work)
	}
	return g
}

// withKernel is the memory of a QEMU guest whose workload has so much.
func withKernel(work Size) Size {
	const unit = Size(1 << 20) // QEMU's own
	return (work + work/perPage + ofGuestKernel + unit - 1) / unit * unit
}

// besideKernel is what the workload has of a QEMU guest's memory.
func besideKernel(memory Size) Size {
	return max((memory-ofGuestKernel)/(perPage+1)*perPage, 0) / pageSize * pageSize
}

// beside is a file as the scenario file names it.
func (f fullScenario) beside(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(f.File), name)
}

// like is a guest of that name with the same work: it writes other bytes.
func (g *Guest) like(seed uint64, name string) *Guest {
	if g == nil {
		return nil
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%d/%s", seed, name)
	another := *g
	another.Seed = h.Sum64()
	return &another
}

// guest checks what is to run in a VM.
func (c *checker) guest(v VM, at []string) {
	key := func(name string) []string { return append(slices.Clone(at), name) }
	for _, k := range []struct {
		name  string
		given bool
	}{{"disk", v.Disk != 0}, {"workload", v.Workload != ""}, {"trace", v.Trace != ""}, {"port", v.Port != 0}, {"image", v.Image != ""}, {"kernel", v.Kernel != ""}} {
		if k.given && v.Guest == "" && !c.lost(key("guest")...) && !c.lost(key("memory")...) && !c.lost(key("scale")...) {
			c.faultKey(key(k.name), fmt.Sprintf("only a VM with a guest has %s, and in this one nothing runs; expected memory or scale beside it", k.name), "add for example `memory: 256MiB`")
		}
	}
	if v.Guest == "" {
		return
	}
	for _, k := range []struct {
		name string
		size Size
	}{{"memory", v.Memory}, {"disk", v.Disk}} {
		if k.size%pageSize != 0 && !c.lost(key(k.name)...) {
			c.fault(key(k.name), fmt.Sprintf("%s is no whole number of pages; expected a multiple of %s", k.size, pageSize), didYouMean(((k.size/pageSize + 1) * pageSize).String()))
		}
	}
	if v.Guest == GuestQEMU {
		c.realGuest(v, at)
	} else if v.Guest == GuestProcess {
		for name, given := range map[string]string{"image": v.Image, "kernel": v.Kernel} {
			if given != "" {
				c.faultKey(key(name), fmt.Sprintf("only a QEMU guest has %s, and this is a process guest", name), "write `guest: qemu`")
			}
		}
	}
	if v.Memory < minMemory && !c.lost(key("memory")...) {
		c.fault(key("memory"), fmt.Sprintf("%s is too little for a guest; expected at least %s", v.Memory, minMemory), "")
	}
	switch {
	case c.lost(key("workload")...) || c.lost(key("trace")...):
	case v.Workload == workloadLog && v.Trace == "":
		c.fault(key("workload"), "the workload trace does what a file says, and none is given; expected trace", "add for example `trace: shop.trace`")
	case v.Workload != workloadLog && v.Trace != "":
		c.faultKey(key("trace"), fmt.Sprintf("only the workload trace has a trace, and this is %s", v.Workload), "")
	}
}

// realGuest checks what only a QEMU guest has.
func (c *checker) realGuest(v VM, at []string) {
	key := func(name string) []string { return append(slices.Clone(at), name) }
	least := withKernel(16 << 20)
	switch {
	case v.Image != "" || v.Kernel != "": // whose needs nobody knows
	case v.Memory < least && v.Memory >= minMemory && !c.lost(key("memory")...):
		c.fault(key("memory"), fmt.Sprintf("%s is too little for a QEMU guest, whose kernel takes %s; expected at least %s", v.Memory, ofGuestKernel, least), didYouMean(least.String()))
	}
	if v.Image != "" && v.Disk == 0 && !c.lost(key("disk")...) {
		c.faultKey(key("image"), "an image is copied onto the VM's disk, and there is none; expected disk", "add for example `disk: 2GiB`")
	}
	if v.Image != "" && v.Workload != workloadIdle && !c.lost(key("workload")...) {
		c.faultKey(key("workload"), "a VM with an image of your own does what the image does; expected no workload", "")
	}
}

// ofLab is what the rest of a lab takes of a kernel's memory beside guests.
const ofLab = Size(256 << 20)

// overcommit reports guests that the booted kernel has no memory for. While one
// moves its memory is there three times: at both hosts, and as it was sent
// last, which deltas are made from. Its disk is there twice. Any of them may
// move at the same time. One that has a standby does not move, and takes that
// all the time.
func (c *checker) overcommit(f fullScenario) {
	need, largest := ofLab, Entry[VM]{}
	for _, e := range f.VMs {
		if c.lost("vms", e.Name, "memory") || c.lost("vms", e.Name, "disk") || e.Value.Guest == "" {
			continue
		}
		need += 3*e.Value.Memory + 2*e.Value.Disk
		if e.Value.Guest == GuestQEMU {
			need += 2*ofQEMU + e.Value.Memory // and as it was looked at last: see guest.Snapshot
		}
		if e.Value.Standby != nil {
			need += e.Value.Memory // what has come of an epoch that is not whole yet
		}
		if e.Value.Memory+e.Value.Disk > largest.Value.Memory+largest.Value.Disk {
			largest = e
		}
	}
	have := f.Kernel.Memory
	if have == 0 || need <= have || largest.Name == "" || c.lost("kernel", "memory") {
		return
	}
	at := path("vms", largest.Name, "memory")
	if _, _, given := c.doc.locate(path("kernel", "memory")); given {
		at = path("kernel", "memory")
	}
	const step = Size(256 << 20)
	c.fault(at, fmt.Sprintf("the guests take up to %s of the kernel's memory, which is %s: while one moves its memory is there three times and its disk twice, and the lab takes %s beside them",
		(need+step-1)/step*step, have, ofLab), fmt.Sprintf("set kernel.memory to %s, or make the guests smaller", (need+step-1)/step*step))
}

// WithoutGuests is a copy of the plan for those who need its VMs as machines
// only: nothing runs in them, and the hosts have no network of their own.
func (p *Plan) WithoutGuests() *Plan {
	if len(p.Guests()) == 0 && !p.provides(Infra) {
		return p
	}
	q := p.withoutStandbys(func(Pair) bool { return true }).Restrict(func(a Attachment) bool { return a.VPC != Infra || !p.provides(a.VPC) })
	for i := range q.Nodes {
		q.Nodes[i].Guest = nil
	}
	return q
}

// OwnKernel tells that a machine has a kernel of its own: a VM in QEMU. Its
// namespace then holds no more than its network card, and the IP stack that has
// its address is inside.
func (n Node) OwnKernel() bool { return n.Guest != nil && n.Guest.Kind == GuestQEMU }

// Takes is what the guest takes of the lab kernel's memory where it runs.
func (g Guest) Takes() Size {
	if g.Kind == GuestQEMU {
		return g.Memory + ofQEMU
	}
	return g.Memory
}

// Guests lists the VMs in which a guest runs, in order.
func (p *Plan) Guests() []Node {
	return slices.DeleteFunc(p.Machines(), func(n Node) bool { return n.Guest == nil })
}
