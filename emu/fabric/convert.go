package fabric

import (
	"math"
	"time"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// rtnl is the route as a netlink message wants it; index gives a device's
// interface index.
func (r Route) rtnl(index map[string]int) rtnl.Route {
	return rtnl.Route{Table: r.Table, Dst: r.Dst, Via: r.Via, DevIndex: index[r.Dev], Src: r.Src,
		Labels: stack(r.Labels), Metric: r.Metric, Unreachable: r.Unreachable}
}

func (m MPLSRoute) rtnl(index map[string]int) rtnl.MPLSRoute {
	return rtnl.MPLSRoute{In: m.In, Out: stack(m.Out), Via: m.Via, DevIndex: index[m.Dev], NoTTLPropagate: m.NoTTLPropagate}
}

// stack cuts an array at its first 0.
func stack(a [4]uint32) []uint32 {
	for i, l := range a {
		if l == 0 {
			return a[:i:i]
		}
	}
	return a[:]
}

// packet is the size that queue lengths are counted in.
const packet = 1514

// netem turns an impairment into the kernel's terms. netem counts the packets
// under way within its limit, so the queue that the user asked for comes on
// top of the bandwidth-delay product.
func netem(i topo.Impairment) rtnl.Netem {
	q := rtnl.Netem{Delay: time.Duration(i.Delay), Jitter: time.Duration(i.Jitter), Loss: float64(i.Loss), Rate: uint64(i.Rate)}
	const unlimited = 1 << 20
	if i.Rate == 0 {
		q.Limit = unlimited
		if i.Queue > 0 {
			q.Limit = uint32(i.Queue)
		}
		return q
	}
	seconds := time.Duration(i.Delay + 4*i.Jitter).Seconds()
	under := int(math.Ceil(float64(i.Rate) * seconds / 8 / packet))
	queue := i.Queue
	if queue == 0 {
		queue = under + 100
	}
	q.Limit = uint32(under + queue)
	return q
}
