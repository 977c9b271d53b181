package fabric

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// egress is an impairment in the kernel's terms. A link direction is a wire,
// which takes time and loses packets, and a line, which sends at a rate and
// has a queue before it. They are two queueing disciplines, one inside the
// other, so that the packets on the wire do not take room in the queue:
//
//	1:   netem   delay, jitter, loss; room for all that can be under way
//	10:  hfsc    one class, 10:1, with a real-time curve at the rate
//	20:  bfifo   the queue, in bytes: a 64 KiB segmentation-offload frame
//	             counts as the 43 packets it will be
//
// Token buckets (htb, tbf) lose what a late timer makes them miss: on a busy
// machine a 465 Mbit/s line carried 230 to 370. netem's own rate keeps the
// rate by a schedule, but counts a super frame as one packet of its queue, so
// that the queue is up to 43 times as long as was said. The real-time curve of
// HFSC is a schedule too, and its leaf counts bytes. Jitter can put packets out
// of order, as netem does. Where bandwidth is set aside there are more classes
// (classes.go).
type egress struct {
	delay, jitter time.Duration
	loss          uint32 // share of 2^32-1, as the kernel has it
	rate          uint64 // bits a second, a multiple of 8; 0: no line
	queue         int    // bytes
}

const (
	wirePacket = 1514 // bytes: a full Ethernet frame, what queues are counted in
	// A queue is by default the bandwidth-delay product of a path of two such
	// links, there and back, and some spare: less starves a single TCP flow.
	path       = 4
	spare      = 100            // packets
	maxRate    = math.MaxUint32 // bytes a second: more cannot be said to HFSC, nor carried by veth
	superFrame = 64<<10 + 1514
	wireRoom   = 1 << 20 // packets that may be on the wire: never the limit
)

func egressOf(i topo.Impairment) egress {
	e := egress{
		delay:  time.Duration(i.Delay),
		jitter: time.Duration(i.Jitter),
		loss:   uint32(math.Round(float64(i.Loss) / 100 * math.MaxUint32)),
		rate:   min(uint64(i.Rate)/8, maxRate) * 8,
	}
	if e.rate != 0 { // without a line nothing queues
		e.queue = queueOf(i, e.rate, e.rate)
	}
	return e
}

// queueOf is the queue in bytes of what has a rate of its own on a line: all
// of it or a part, whose queue is then as long in time.
func queueOf(i topo.Impairment, rate, line uint64) int {
	packets := int(float64(i.Queue) * float64(rate) / float64(line))
	if i.Queue == 0 {
		packets = int(math.Ceil(float64(rate)*(path*time.Duration(i.Delay)).Seconds()/8/wirePacket)) + spare
	}
	// A queue that cannot hold one super frame would never let it through.
	return max(packets*wirePacket, superFrame)
}

func (e egress) String() string {
	var s []string
	if e.rate != 0 {
		s = append(s, "rate "+topo.Rate(e.rate).String(), fmt.Sprintf("queue %d KiB", e.queue>>10))
	}
	if e.delay != 0 {
		s = append(s, "delay "+e.delay.String())
	}
	if e.jitter != 0 {
		s = append(s, "jitter "+e.jitter.String())
	}
	if e.loss != 0 {
		s = append(s, fmt.Sprintf("loss %.4g%%", float64(e.loss)/math.MaxUint32*100))
	}
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

const lineMinor = 1

// Handles of the disciplines; tc shows them in hexadecimal.
var (
	wireHandle  = rtnl.MakeHandle(1, 0)
	wireChild   = rtnl.MakeHandle(1, 1)
	lineHandle  = rtnl.MakeHandle(0x10, 0)
	lineClass   = rtnl.MakeHandle(0x10, lineMinor)
	queueHandle = rtnl.MakeHandle(0x20, 0)
)

func rootQdisc(dev string, index int) rtnl.Qdisc {
	return rtnl.Qdisc{Dev: dev, DevIndex: index, Parent: rtnl.Root, Handle: wireHandle}
}

// shape adds e to the batch. old is what is there: the kernel changes the
// values of a discipline in place, packets in it included, and only where
// there is a line on one side and none on the other is all made anew.
func shape(b *rtnl.Batch, dev string, index int, old, e egress) {
	if old != (egress{}) && (old.rate == 0) != (e.rate == 0) {
		b.QdiscDel(rootQdisc(dev, index), rtnl.IgnoreMissing)
		old = egress{}
	}
	at := func(parent, handle rtnl.Handle) rtnl.Qdisc {
		return rtnl.Qdisc{Dev: dev, DevIndex: index, Parent: parent, Handle: handle}
	}
	b.Netem(rootQdisc(dev, index), rtnl.Netem{Delay: e.delay, Jitter: e.jitter, Loss: e.loss, Limit: wireRoom})
	if e.rate == 0 {
		return
	}
	if old.rate == 0 {
		b.HFSC(at(wireChild, lineHandle), lineMinor)
	}
	if old.rate != e.rate {
		b.HFSCClass(at(lineHandle, lineClass), rtnl.HFSCClass{RealTime: e.rate})
	}
	if old.queue != e.queue {
		b.ByteFIFO(at(lineClass, queueHandle), e.queue)
	}
}

// line is what was seen of an interface's disciplines.
type line struct {
	egress
	division
}

// readLines puts the disciplines of each interface together again; those that
// have not our form are left out.
func readLines(conn *rtnl.Conn, qdiscs []rtnl.QdiscInfo) (map[int]line, error) {
	seen := map[int]line{}
	for _, q := range qdiscs {
		if q.Kind == "netem" && q.Parent == rtnl.Root && q.Handle == wireHandle {
			seen[q.Index] = line{egress: egress{delay: q.Netem.Delay, jitter: q.Netem.Jitter, loss: q.Netem.Loss}}
		}
	}
	for _, q := range qdiscs {
		e, ours := seen[q.Index]
		switch {
		case ours && q.Kind == "hfsc" && q.Handle == lineHandle:
			classes, err := conn.Classes(q.Index)
			if err != nil {
				return nil, err
			}
			if e.division, err = readDivision(conn, q, classes, qdiscs); err != nil {
				return nil, err
			}
			for _, c := range classes {
				if c.Handle == lineClass && e.leads(q) {
					e.rate = c.Rate
				}
			}
		case ours && q.Kind == "bfifo" && q.Handle == queueHandle:
			e.queue = q.Limit
		default:
			continue
		}
		seen[q.Index] = e
	}
	return seen, nil
}
