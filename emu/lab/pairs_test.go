package lab

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// TestAPairThatSpeaksWhileItEnds: its seats say something between the look at the
// record and the end of the pair, as those of a host do that has just come back.
func TestAPairThatSpeaksWhileItEnds(t *testing.T) {
	l := New(Config{})
	p := l.pairs
	pair := topo.Pair{VM: "shop", Standby: "shop-standby", Hosts: [2]string{"texas-h1", "illinois-h1"}}
	p.known["shop"] = &protected{pair: pair, active: "shop", gen: 2, changed: make(chan struct{})}
	asked, ok := p.of("shop")
	if !ok {
		t.Fatal("the pair is not known")
	}
	waited := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		waited <- p.wait(ctx, "shop", func(protected) bool { return false })
	}()
	p.observe(event.New("shop", "pair.activated", map[string]string{"gen": "3", "seat": "shop-standby"}))
	if k := p.forget(asked); k.active != "shop-standby" {
		t.Errorf("it ended at seat %s, and had gone on at the other", k.active)
	}
	p.forget(asked) // once more is no more
	var none *NoSuchError
	if err := <-waited; !errors.As(err, &none) {
		t.Errorf("who waited for it got %v", err)
	}
}
