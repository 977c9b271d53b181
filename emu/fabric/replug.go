package fabric

import (
	"context"
	"fmt"
	"maps"
	"reflect"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// Replug takes the far end of a machine's link to another node, as a
// hypervisor does with the port of a VM that it hands over: from names the link
// that is there (topo.Link.Name), to is what it is to be, with the same A end.
// The machine keeps its interface and, with its connections, all that its
// kernel knows of it; only the carrier is gone for the moment.
//
// An Apply that wants the machine elsewhere would do the same by making the link
// anew. Replug is for when the machine stands meanwhile: it is one message to the
// kernel, and looks at nothing else. It fails with nothing done where another
// change has taken the link away.
func (f *Fabric) Replug(ctx context.Context, from string, to Link) error {
	f.change.Lock()
	defer f.change.Unlock()
	if err := f.replug(ctx, from, to); err != nil {
		return fmt.Errorf("plug %s into %s: %w", to.A.Node, to.B.Node, err)
	}
	return nil
}

// replug is Replug for whoever may change the lab.
func (f *Fabric) replug(ctx context.Context, from string, to Link) error {
	if f.lock == nil {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	old, ok := f.state.Links[from]
	if !ok {
		return fmt.Errorf("link %s is not there any more", from)
	}
	if !reflect.DeepEqual(old.A, to.A) || old.MTU != to.MTU || old.Down || to.Down {
		return fmt.Errorf("link %s has another machine's end, MTU or state than what it is to be", from)
	}
	if old.B.Node == to.B.Node {
		return fmt.Errorf("it is there already")
	}
	if bare := (End{Node: to.B.Node, Ifname: to.B.Ifname, MAC: to.B.MAC, Master: to.B.Master}); !reflect.DeepEqual(to.B, bare) {
		return fmt.Errorf("%s:%s is more than a port of a bridge", to.B.Node, to.B.Ifname)
	}
	source, target := f.nodes[old.B.Node], f.nodes[to.B.Node]
	if source == nil || target == nil {
		return ErrNoNode
	}
	var b rtnl.Batch
	b.LinkMove(rtnl.LinkMove{
		Index: source.index[old.B.Ifname], Name: old.B.Ifname, ToNS: int(target.ns),
		To:     rtnl.Link{Name: to.B.Ifname, Index: target.alloc(to.B.Ifname), MAC: to.B.MAC},
		Master: target.index[to.B.Master], Alias: f.tag(to.B.Node),
	})
	if err := source.conn.Do(&b); err != nil {
		f.suspect = true // the move may have been done, and what follows it not
		return err
	}
	at := event.New(to.A.Node, "vm.plugged", map[string]string{"host": to.B.Node, "port": to.B.Ifname})
	delete(source.index, old.B.Ifname)
	f.rewire(from, old, to)
	f.sink(at)
	return f.settle()
}

// rewire notes that a link has another far end.
func (f *Fabric) rewire(from string, old, to Link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Links = maps.Clone(f.state.Links)
	delete(f.state.Links, from)
	f.state.Links[topo.Link{A: topo.Endpoint{Node: to.A.Node, Ifname: to.A.Ifname}, B: topo.Endpoint{Node: to.B.Node, Ifname: to.B.Ifname}}.Name()] = to
	f.applied = maps.Clone(f.applied)
	delete(f.applied, key{rankMaster, old.B.Node, old.B.Ifname, ""})
	f.applied[key{rankLink, to.A.Node, to.A.Ifname, ""}] = linkObj{to.B.Node, to.B.Ifname, to.A.MAC, to.B.MAC, to.MTU, noEnd, to.Seat}
	if to.B.Master != "" {
		f.applied[key{rankMaster, to.B.Node, to.B.Ifname, ""}] = masterObj{to.B.Master, to.B.Closed}
	}
}
