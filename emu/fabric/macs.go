package fabric

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// BridgeAt is a bridge of a node.
type BridgeAt struct{ Node, Bridge string }

func (b BridgeAt) String() string { return b.Node + " " + b.Bridge }

// MACPlace is where a bridge has a MAC.
type MACPlace struct {
	Port  int        // interface index; 0: the bridge does not know the MAC
	Since event.Mono // when that was noticed; 0: before the watch began
}

// MACWatch follows what some bridges know, by the kernel's notifications. Its
// methods may be called from several goroutines.
type MACWatch struct {
	watches []*rtnl.FDBWatch
	readers sync.WaitGroup

	mu      sync.Mutex
	known   map[BridgeAt]map[topo.MAC]MACPlace
	changed chan struct{} // closed at the next change
	err     error         // of a reader
}

// WatchMACs reads what the bridges know and follows it from then on. The
// bridges must outlive the watch.
func (f *Fabric) WatchMACs(bridges []BridgeAt) (*MACWatch, error) {
	w := &MACWatch{known: map[BridgeAt]map[topo.MAC]MACPlace{}, changed: make(chan struct{})}
	byNode := map[string][]BridgeAt{}
	for _, b := range bridges {
		byNode[b.Node] = append(byNode[b.Node], b)
		w.known[b] = map[topo.MAC]MACPlace{}
	}
	for node, at := range byNode {
		if err := f.follow(w, node, at); err != nil {
			w.Close()
			return nil, fmt.Errorf("watch bridges of %s: %w", node, err)
		}
	}
	return w, nil
}

// follow subscribes before it reads, so that nothing is missed between.
func (f *Fabric) follow(w *MACWatch, node string, bridges []BridgeAt) error {
	at := map[int]BridgeAt{} // by interface index
	var held []rtnl.FDBEntry
	err := f.Do(node, func() error {
		for _, b := range bridges {
			dev, err := net.InterfaceByName(b.Bridge)
			if err != nil {
				return fmt.Errorf("bridge %s: %w", b.Bridge, err)
			}
			at[dev.Index] = b
		}
		watch, err := rtnl.WatchFDB()
		if err != nil {
			return err
		}
		w.watches = append(w.watches, watch)
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		held, err = conn.FDB()
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range held {
		w.note(at, rtnl.FDBEvent{FDBEntry: e}, 0)
	}
	watch := w.watches[len(w.watches)-1]
	w.readers.Go(func() { w.read(watch, node, at) })
	return nil
}

// read takes notifications until the watch is closed.
func (w *MACWatch) read(watch *rtnl.FDBWatch, node string, at map[int]BridgeAt) {
	for {
		events, err := watch.Next()
		now := event.Now()
		w.mu.Lock()
		if err != nil && !errors.Is(err, os.ErrClosed) { // a closed one needs nobody's attention
			w.err = fmt.Errorf("watch bridges of %s: %w", node, err)
		}
		for _, e := range events {
			w.note(at, e, now)
		}
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// note books one entry. The caller holds w.mu, or nobody else has w yet.
func (w *MACWatch) note(at map[int]BridgeAt, e rtnl.FDBEvent, now event.Mono) {
	b, ours := at[e.Bridge]
	if !ours || e.Local {
		return
	}
	mac, port := topo.MAC(e.MAC), e.Port
	was := w.known[b][mac]
	if e.Gone {
		port = 0
		if was.Port != e.Port {
			return // it has moved on already
		}
	}
	if port != was.Port {
		w.known[b][mac] = MACPlace{Port: port, Since: now}
	}
}

// At is where a bridge has a MAC.
func (w *MACWatch) At(b BridgeAt, mac topo.MAC) MACPlace {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known[b][mac]
}

// Wait waits until every bridge has the MAC where done says it should be, and
// returns when the last of them noticed. The error names those that do not.
func (w *MACWatch) Wait(ctx context.Context, mac topo.MAC, bridges []BridgeAt, done func(BridgeAt, MACPlace) bool) (last event.Mono, err error) {
	for {
		w.mu.Lock()
		var left []string
		last = 0
		for _, b := range bridges {
			place := w.known[b][mac]
			last = max(last, place.Since)
			if !done(b, place) {
				left = append(left, b.String())
			}
		}
		changed, err := w.changed, w.err
		w.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if len(left) == 0 {
			return last, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, fmt.Errorf("MAC %s: not as awaited at %s: %w", mac, strings.Join(left, ", "), context.Cause(ctx))
		}
	}
}

// Close ends the watch.
func (w *MACWatch) Close() {
	for _, watch := range w.watches {
		_ = watch.Close() // nothing was written
	}
	w.readers.Wait()
}

// LearnedMAC is a MAC that a bridge learned from frames.
type LearnedMAC struct {
	MAC  topo.MAC `json:"mac"`
	Port string   `json:"port"` // interface behind which it is
}

// FDB is what a bridge learned and did not forget yet, by MAC.
func (f *Fabric) FDB(b BridgeAt) (out []LearnedMAC, err error) {
	err = f.Do(b.Node, func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		links, err := conn.Links()
		if err != nil {
			return err
		}
		names, bridge := map[int]string{}, 0
		for _, l := range links {
			names[l.Index] = l.Name
			if l.Name == b.Bridge && l.Kind == "bridge" {
				bridge = l.Index
			}
		}
		if bridge == 0 {
			return errors.New("there is no such bridge")
		}
		entries, err := conn.FDB()
		for _, e := range entries {
			if e.Bridge == bridge && !e.Local {
				out = append(out, LearnedMAC{MAC: e.MAC, Port: names[e.Port]})
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read bridge %s: %w", b, err)
	}
	slices.SortFunc(out, func(a, b LearnedMAC) int { return bytes.Compare(a.MAC[:], b.MAC[:]) })
	return out, nil
}

// FlushMACs makes bridges forget all that they have learned.
func (f *Fabric) FlushMACs(bridges ...BridgeAt) error {
	for _, b := range bridges {
		f.mu.Lock()
		n := f.nodes[b.Node]
		f.mu.Unlock()
		if n == nil {
			return fmt.Errorf("flush bridge %s: %w", b, ErrNoNode)
		}
		var batch rtnl.Batch
		batch.BridgeSet(rtnl.BridgeChange{Name: b.Bridge, Flush: true})
		if err := n.conn.Do(&batch); err != nil {
			return fmt.Errorf("flush bridge %s: %w", b, err)
		}
	}
	return nil
}
