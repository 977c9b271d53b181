package lab

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// announcersAtOnce bounds how many machines are announced at the same time.
const announcersAtOnce = 32

// replugged are the machines of plan that the fabric has plugged in elsewhere.
func replugged(have fabric.State, plan *topo.Plan) (names []string) {
	wired := map[string]bool{}
	for _, l := range have.Links {
		if have.Nodes[l.A.Node].Kind == topo.KindMachine {
			wired[l.A.Node] = true
		}
	}
	for _, l := range wires(plan) {
		if _, same := have.Links[l.Name()]; !same && wired[l.A.Node] {
			names = append(names, l.A.Node)
		}
	}
	return names
}

// wires are the links that machines are plugged into a LAN by.
func wires(plan *topo.Plan) (links []topo.Link) {
	machines := map[string]bool{}
	for _, n := range plan.Machines() {
		machines[n.Name] = true
	}
	for _, l := range plan.Links {
		if machines[l.A.Node] {
			links = append(links, l)
		}
	}
	return links
}

// noteReplugged remembers who is to be announced when plan is reached. It is
// called before anything is replugged: who was, in an Apply that failed, is
// announced by the next one, wherever it is then.
func (l *Lab) noteReplugged(f *fabric.Fabric, plan *topo.Plan) {
	for _, name := range replugged(f.Current(), plan) {
		l.unannounced[name] = true
	}
}

// announce has the hosts that machines were plugged into announce them, so that
// every bridge of their LAN learns the new place at once (CloudNet, section
// IV-A3: the host announces, not the VM). In an l3vpn that is the site's LAN.
func (l *Lab) announce(ctx context.Context, f *fabric.Fabric, plan *topo.Plan) error {
	var (
		mu   sync.Mutex
		told []string
		g    errgroup.Group
	)
	g.SetLimit(announcersAtOnce)
	for _, k := range wires(plan) {
		if !l.unannounced[k.A.Node] {
			continue
		}
		g.Go(func() error {
			if err := f.Announce(ctx, k.B.Node, k.B.Ifname, k.A.MAC, k.A.Addr.Addr()); err != nil {
				return fmt.Errorf("%s runs on %s now, but its LAN could not be told: %w", k.A.Node, k.B.Node, err)
			}
			mu.Lock()
			defer mu.Unlock()
			told = append(told, k.A.Node)
			return nil
		})
	}
	err := g.Wait()
	for _, name := range told {
		delete(l.unannounced, name)
	}
	if err == nil {
		clear(l.unannounced) // what is left has gone
	}
	return err
}
