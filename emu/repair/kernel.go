package repair

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// kernel is the interfaces and routes of this namespace.
type kernel struct {
	conn  *rtnl.Conn
	poll  *rtnl.LinkPoll
	batch rtnl.Batch
	index map[string]int // of interfaces
	names map[int]string
}

func openKernel() (*kernel, error) {
	conn, err := rtnl.Dial()
	if err != nil {
		return nil, err
	}
	poll, err := rtnl.PollLinks()
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &kernel{conn: conn, poll: poll, index: map[string]int{}, names: map[int]string{}}, nil
}

func (k *kernel) close() error { return errors.Join(k.conn.Close(), k.poll.Close()) }

// events are what interfaces have done since the last call. When that was too
// much to be told they are all read, as they are now.
func (k *kernel) events() ([]rtnl.LinkEvent, error) {
	events, err := k.poll.Take()
	if errors.Is(err, rtnl.ErrLost) {
		return k.devices()
	}
	for _, e := range events {
		k.note(e)
	}
	return events, err
}

// devices reads all interfaces.
func (k *kernel) devices() (events []rtnl.LinkEvent, err error) {
	links, err := k.conn.Links()
	if err != nil {
		return nil, err
	}
	clear(k.index)
	clear(k.names)
	for _, l := range links {
		e := rtnl.LinkEvent{LinkInfo: l}
		k.note(e)
		events = append(events, e)
	}
	return events, nil
}

func (k *kernel) note(e rtnl.LinkEvent) {
	if e.Gone {
		if k.index[e.Name] == e.Index {
			delete(k.index, e.Name)
		}
		delete(k.names, e.Index)
		return
	}
	k.index[e.Name], k.names[e.Index] = e.Index, e.Name
}

// tables reads the routes of the fabric's.
func (k *kernel) tables() (t tables, err error) {
	t = tables{map[uint32]fabric.MPLSRoute{}, map[slot]fabric.Route{}}
	labels, err := k.conn.MPLSRoutes(rtnl.ProtocolFabric)
	if err != nil {
		return t, err
	}
	for _, l := range labels {
		r := fabric.MPLSRoute{In: l.In, Via: l.Via, Dev: k.names[l.DevIndex], NoTTLPropagate: l.NoTTLPropagate}
		copy(r.Out[:], l.Out)
		t.labels[l.In] = r
	}
	routes, err := k.conn.Routes(rtnl.ProtocolFabric)
	if err != nil {
		return t, err
	}
	for _, l := range routes {
		if l.Table == unix.RT_TABLE_MAIN {
			l.Table = 0
		}
		r := fabric.Route{Table: l.Table, Dst: l.Dst, Via: l.Via, Dev: k.names[l.DevIndex], Src: l.Src, Metric: l.Metric, Unreachable: l.Unreachable}
		copy(r.Labels[:], l.Labels)
		t.routes[slotOf(r)] = r
	}
	return t, nil
}

// write carries out changes and puts routes back, in one send.
func (k *kernel) write(changes []change, routes []fabric.Route) error {
	k.batch.Reset()
	for _, c := range changes {
		label, route := c.MPLS, c.IP
		if c.prepared {
			label, route = c.MPLSBy, c.IPBy
		}
		if label != nil {
			k.batch.MPLSReplace(k.label(*label))
		} else {
			k.batch.RouteReplace(k.route(*route))
		}
	}
	for _, r := range routes {
		k.batch.RouteReplace(k.route(r))
	}
	if k.batch.Len() == 0 {
		return nil
	}
	if err := k.conn.DoDirect(&k.batch); err != nil {
		return fmt.Errorf("replace routes: %w", err)
	}
	return nil
}

func (k *kernel) label(r fabric.MPLSRoute) rtnl.MPLSRoute {
	return rtnl.MPLSRoute{In: r.In, Out: labels(&r.Out), Via: r.Via, DevIndex: k.index[r.Dev], Dev: r.Dev, NoTTLPropagate: r.NoTTLPropagate}
}

func (k *kernel) route(r fabric.Route) rtnl.Route {
	return rtnl.Route{Table: r.Table, Dst: r.Dst, Via: r.Via, DevIndex: k.index[r.Dev], Dev: r.Dev, Src: r.Src, Metric: r.Metric,
		Labels: labels(&r.Labels), Unreachable: r.Unreachable}
}

// labels are those of a stack.
func labels(s *fabric.Stack) []uint32 {
	n := 0
	for n < len(s) && s[n] != 0 {
		n++
	}
	return s[:n]
}
