package rtnl

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Handle is a qdisc or class id, major:minor.
type Handle uint32

// Root is the parent of an interface's outermost qdisc.
const Root Handle = 0xFFFFFFFF // TC_H_ROOT

// MakeHandle is major:minor.
func MakeHandle(major, minor uint16) Handle { return Handle(major)<<16 | Handle(minor) }

func (h Handle) String() string {
	switch h {
	case Root:
		return "root"
	case Ingress:
		return "ingress"
	case Egress:
		return "egress"
	case clsactParent:
		return "clsact"
	}
	return fmt.Sprintf("%x:%x", uint32(h)>>16, uint32(h)&0xFFFF)
}

// Qdisc is where a queueing discipline sits.
type Qdisc struct {
	DevIndex int
	Dev      string // the interface's name, for messages
	Parent   Handle
	Handle   Handle
}

// described is a Qdisc in an error.
type described struct {
	kind string
	q    Qdisc
}

func (d described) String() string {
	return fmt.Sprintf("%s %v of %s (parent %v)", d.kind, d.q.Handle, d.q.Dev, d.q.Parent)
}

// Netem is what a stretch of wire does to packets: it takes time, and loses
// some. Rate makes it a line as well, with Limit packets of room in all.
type Netem struct {
	Delay  time.Duration
	Jitter time.Duration // standard deviation, normally distributed
	Loss   uint32        // share of 2^32-1, each packet by itself
	Limit  uint32        // packets that may be under way
	Rate   uint64        // bits a second; 0: no line
}

func (b *Batch) tc(verb, kind string, typ, flags int, q Qdisc, opts []Option) {
	b.begin(verb, described{kind, q}, typ, flags, opts)
	msg := nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(q.DevIndex), Handle: uint32(q.Handle), Parent: uint32(q.Parent)}
	b.body(msg.Serialize())
	if typ == unix.RTM_NEWQDISC || typ == unix.RTM_NEWTCLASS { // what goes goes by its handle
		b.str(nl.TCA_KIND, kind)
	}
}

// Netem adds a netem qdisc, or changes the one that is there and leaves its
// child alone.
func (b *Batch) Netem(q Qdisc, n Netem, opts ...Option) {
	b.tc("set", "netem", unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, q, opts)
	at := b.nest(nl.TCA_OPTIONS)
	qopt := nl.TcNetemQopt{Limit: n.Limit, Loss: n.Loss}
	b.body(qopt.Serialize())
	b.u64(netemLatency64, uint64(n.Delay))
	b.u64(netemJitter64, uint64(n.Jitter))
	if n.Jitter != 0 {
		b.attr(nl.TCA_NETEM_DELAY_DIST, normalTable())
	}
	rate := nl.TcNetemRate{}
	bytes := n.Rate / 8
	if bytes > math.MaxUint32 {
		b.u64(nl.TCA_NETEM_RATE64, bytes)
		bytes = math.MaxUint32
	}
	rate.Rate = uint32(bytes)
	b.attr(nl.TCA_NETEM_RATE, rate.Serialize())
	b.endNest(at)
	b.end()
}

// Attributes in nanoseconds, newer than package nl.
const (
	netemLatency64 = 10 // TCA_NETEM_LATENCY64
	netemJitter64  = 11 // TCA_NETEM_JITTER64
)

// normalTable is the inverse of the normal distribution in netem's form:
// values in units of 1/8192 of a standard deviation at equal steps of
// probability. Without a table netem's jitter is uniform.
var normalTable = sync.OnceValue(func() []byte {
	const n = 4096
	table := make([]byte, 0, 2*n)
	for i := range n {
		x := math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/n-1)
		v := int16(math.Round(min(max(x*8192, math.MinInt16), math.MaxInt16)))
		table = binary.NativeEndian.AppendUint16(table, uint16(v))
	}
	return table
})

// HTB adds a hierarchical token bucket qdisc whose unclassified packets go to
// class defaultClass (minor number).
func (b *Batch) HTB(q Qdisc, defaultClass uint16, opts ...Option) {
	b.tc("set", "htb", unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, q, opts)
	at := b.nest(nl.TCA_OPTIONS)
	glob := nl.TcHtbGlob{Version: 3, Rate2Quantum: 10, Defcls: uint32(defaultClass)}
	b.attr(nl.TCA_HTB_INIT, glob.Serialize())
	b.endNest(at)
	b.end()
}

// HTBClass is a class of an HTB qdisc; rates in bits a second.
type HTBClass struct {
	Rate, Ceil uint64 // Ceil 0: Rate
	Burst      int    // bytes that may leave at once
	Prio       int
}

// HTBClass adds or changes a class: q.Handle is its id, q.Parent the qdisc or
// class it is under.
func (b *Batch) HTBClass(q Qdisc, c HTBClass, opts ...Option) {
	b.tc("set", "htb", unix.RTM_NEWTCLASS, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, q, opts)
	at := b.nest(nl.TCA_OPTIONS)
	if c.Ceil == 0 {
		c.Ceil = c.Rate
	}
	opt := nl.TcHtbCopt{
		Buffer: ticks(c.Burst, c.Rate), Cbuffer: ticks(c.Burst, c.Ceil),
		Quantum: 64 << 10, // a whole segmentation-offload frame; no bearing on a single class
		Prio:    uint32(c.Prio),
	}
	opt.Rate = rateSpec(c.Rate)
	opt.Ceil = rateSpec(c.Ceil)
	b.attr(nl.TCA_HTB_PARMS, opt.Serialize())
	if c.Rate/8 > math.MaxUint32 {
		b.u64(nl.TCA_HTB_RATE64, c.Rate/8)
	}
	if c.Ceil/8 > math.MaxUint32 {
		b.u64(nl.TCA_HTB_CEIL64, c.Ceil/8)
	}
	b.endNest(at)
	b.end()
}

func rateSpec(bits uint64) nl.TcRateSpec {
	// The link layer is named so that the kernel wants no rate table for it.
	return nl.TcRateSpec{Linklayer: 1, Rate: uint32(min(bits/8, math.MaxUint32))}
}

// ticks is the time that n bytes take at a rate, in the kernel's scheduler
// ticks of 64 ns.
func ticks(n int, bits uint64) uint32 {
	if bits == 0 {
		return 0
	}
	ns := float64(n) * 8 * 1e9 / float64(bits)
	return uint32(min(ns/64, math.MaxUint32))
}

// HFSC adds a hierarchical fair service curve qdisc whose unclassified packets
// go to class defaultClass (minor number).
func (b *Batch) HFSC(q Qdisc, defaultClass uint16, opts ...Option) {
	b.tc("set", "hfsc", unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, q, opts)
	b.attr(nl.TCA_OPTIONS, binary.NativeEndian.AppendUint16(nil, defaultClass))
	b.end()
}

// HFSCClass is a class of an HFSC qdisc: linear service curves in bits a
// second (Stoica, Zhang, Ng 1997); 0: no such curve. All go by a schedule that
// a late timer does not shift, and save up nothing while the class has no
// packets. Rates beyond 34 Gbit/s cannot be said.
type HFSCClass struct {
	RealTime   uint64 // of a leaf: what it gets whatever the others want, and at least that
	LinkShare  uint64 // its weight among its siblings for what is left
	UpperLimit uint64 // the most that it gets of what is left
}

// HFSCClass adds or changes a class: q.Handle is its id, q.Parent the qdisc or
// class it is under. A curve that is there can be changed but not taken away.
func (b *Batch) HFSCClass(q Qdisc, c HFSCClass, opts ...Option) {
	b.tc("set", "hfsc", unix.RTM_NEWTCLASS, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, q, opts)
	at := b.nest(nl.TCA_OPTIONS)
	b.curve(nl.TCA_HFSC_RSC, c.RealTime)
	b.curve(nl.TCA_HFSC_FSC, c.LinkShare)
	b.curve(nl.TCA_HFSC_USC, c.UpperLimit)
	b.endNest(at)
	b.end()
}

func (b *Batch) curve(typ int, rate uint64) {
	if rate == 0 {
		return
	}
	curve := make([]byte, 12) // tc_service_curve: m1, d, m2
	binary.NativeEndian.PutUint32(curve[8:], uint32(min(rate/8, math.MaxUint32)))
	b.attr(typ, curve)
}

// ClassDel removes a class without children; a filter that leads to it keeps
// it (EBUSY). What queues in it is lost.
func (b *Batch) ClassDel(q Qdisc, opts ...Option) {
	b.tc("delete", "class", unix.RTM_DELTCLASS, 0, q, opts)
	b.end()
}

// ByteFIFO adds a queue of at most limit bytes.
func (b *Batch) ByteFIFO(q Qdisc, limit int, opts ...Option) { b.fifo("bfifo", q, limit, opts) }

// PacketFIFO adds a queue of at most limit packets.
func (b *Batch) PacketFIFO(q Qdisc, limit int, opts ...Option) { b.fifo("pfifo", q, limit, opts) }

func (b *Batch) fifo(kind string, q Qdisc, limit int, opts []Option) {
	b.tc("set", kind, unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, q, opts)
	b.attr(nl.TCA_OPTIONS, binary.NativeEndian.AppendUint32(nil, uint32(limit)))
	b.end()
}

// QdiscDel removes a qdisc and all below it.
func (b *Batch) QdiscDel(q Qdisc, opts ...Option) {
	b.tc("delete", "qdisc", unix.RTM_DELQDISC, 0, q, opts)
	b.end()
}
