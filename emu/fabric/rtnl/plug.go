package rtnl

import (
	"encoding/binary"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// IFB adds an interface whose packets, once its disciplines let them go, go on
// where they were taken from by a Redirect.
func (b *Batch) IFB(l Link, opts ...Option) {
	b.newLink("ifb", l, opts)
	b.oneQueue()
	b.linkInfo("ifb", nil)
	b.end()
}

// PrioMap says into which band a packet of each priority goes.
type PrioMap [16]uint8 // TC_PRIO_MAX+1

// Prio adds a prio discipline, or changes the one that is there and leaves its
// bands' contents alone: packets go into other bands from then on, all at the
// same moment. Bands that come are fifos.
func (b *Batch) Prio(q Qdisc, bands int, m PrioMap, opts ...Option) {
	b.tc("set", "prio", unix.RTM_NEWQDISC, unix.NLM_F_CREATE, q, opts)
	qopt := binary.NativeEndian.AppendUint32(make([]byte, 0, 4+len(m)), uint32(bands))
	b.attr(nl.TCA_OPTIONS, append(qopt, m[:]...))
	b.end()
}

// PlugAction is what a plug discipline is told (tc_plug_qopt of
// linux/pkt_sched.h).
type PlugAction uint32

const (
	// PlugBuffer shuts it: what comes from now on waits.
	PlugBuffer PlugAction = 0 // TCQ_PLUG_BUFFER
	// PlugReleaseOne lets go what came before the last PlugBuffer. The kernel
	// counts for that, and goes on counting what was lost when the interface went
	// down: then it lets go too much.
	PlugReleaseOne PlugAction = 1 // TCQ_PLUG_RELEASE_ONE
	// PlugRelease lets everything go, now and from now on.
	PlugRelease PlugAction = 2 // TCQ_PLUG_RELEASE_INDEFINITE
	// PlugLimit sets how many bytes it holds at most.
	PlugLimit PlugAction = 3 // TCQ_PLUG_LIMIT
)

// Plug adds a plug discipline, which is shut, and holds limit bytes at most.
func (b *Batch) Plug(q Qdisc, limit uint32, opts ...Option) {
	b.tc("set", "plug", unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, q, opts)
	b.plug(PlugLimit, limit)
}

// PlugSet tells the plug with q.Handle what to do; q.Parent is of no account.
func (b *Batch) PlugSet(q Qdisc, a PlugAction, opts ...Option) {
	q.Parent = 0
	b.tc("change", "plug", unix.RTM_NEWQDISC, 0, q, opts)
	b.plug(a, 0)
}

func (b *Batch) plug(a PlugAction, limit uint32) {
	qopt := binary.NativeEndian.AppendUint32(make([]byte, 0, 8), uint32(a))
	b.attr(nl.TCA_OPTIONS, binary.NativeEndian.AppendUint32(qopt, limit))
	b.end()
}

// Blackhole has a discipline that drops all that it is given take the place of
// the one that is there, whose packets are lost.
func (b *Batch) Blackhole(q Qdisc, opts ...Option) {
	b.tc("set", "blackhole", unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, q, opts)
	b.end()
}

// Waiting is one discipline of an interface and what waits in it.
type Waiting struct {
	Kind    string
	Handle  Handle
	Parent  Handle
	Packets int
	Bytes   int
	Drops   int
	Map     PrioMap // of a prio
}

// Waiting reads the disciplines of one interface.
func (c *Conn) Waiting(devIndex int) (out []Waiting, err error) {
	err = c.dump("waiting packets", unix.RTM_GETQDISC, new(nl.TcMsg).Serialize(), func() { out = out[:0] }, func(p []byte) {
		if len(p) < nl.SizeofTcMsg {
			return
		}
		msg := nl.DeserializeTcMsg(p)
		if int(msg.Ifindex) != devIndex {
			return
		}
		w := Waiting{Handle: Handle(msg.Handle), Parent: Handle(msg.Parent)}
		attrs(p, nl.SizeofTcMsg, w.set)
		out = append(out, w)
	})
	return out, err
}

func (w *Waiting) set(typ uint16, v []byte) {
	switch {
	case typ == nl.TCA_KIND:
		w.Kind = cstring(v)
	case typ == nl.TCA_OPTIONS && w.Kind == "prio" && len(v) >= 4+len(w.Map):
		copy(w.Map[:], v[4:])
	case typ == nl.TCA_STATS2:
		attrs(v, 0, func(typ uint16, v []byte) {
			if typ == statsQueue && len(v) >= 12 { // gnet_stats_queue: qlen, backlog, drops
				w.Packets = int(binary.NativeEndian.Uint32(v))
				w.Bytes = int(binary.NativeEndian.Uint32(v[4:]))
				w.Drops = int(binary.NativeEndian.Uint32(v[8:]))
			}
		})
	}
}
