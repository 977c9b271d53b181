package lab

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// TestDestroyEndsWhoKeepsTheLabStill: an audit may last for minutes, and a
// destroy does not wait for it.
func TestDestroyEndsWhoKeepsTheLabStill(t *testing.T) {
	l := New(Config{Name: "t"})
	l.plan = planOf(t, threeSites)
	inside, asked := make(chan struct{}), make(chan error, 1)
	go func() {
		asked <- l.Still(t.Context(), func(ctx context.Context, _ *topo.Plan) error {
			close(inside)
			<-ctx.Done()
			return context.Cause(ctx)
		})
	}()
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-asked; !errors.Is(err, errDestroyed) {
		t.Errorf("who asked is told %v", err)
	}
	if l.abort != nil {
		t.Error("it could be ended twice")
	}
}

// TestNobodyElseChangesALabUnderExperiment: what others ask for meanwhile would
// be in the measurements.
func TestNobodyElseChangesALabUnderExperiment(t *testing.T) {
	l := New(Config{Name: "t"})
	l.plan = planOf(t, threeSites)
	srv := httptest.NewServer(Handler(l, nil))
	defer srv.Close()
	c := NewClient(func(context.Context) (net.Conn, error) { return net.Dial("tcp", srv.Listener.Addr().String()) })
	leave, err := l.Occupy()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Occupy(); !errors.Is(err, ErrBusy) {
		t.Errorf("a second run: %v", err)
	}
	op := topo.Operation{Do: "leave", VPC: "x", Site: "d"}
	ask := func() map[string]error {
		_, operate := c.Operate(t.Context(), OperateRequest{Operation: op}, nil)
		_, deploy := c.Deploy(t.Context(), DeployRequest{File: "t", Source: []byte("name: x\n")}, nil)
		still := l.Still(t.Context(), func(context.Context, *topo.Plan) error { return nil })
		return map[string]error{"operate": operate, "deploy": deploy, "flush": c.FlushMACs(t.Context(), "z"), "audit": still}
	}
	for what, err := range ask() {
		if err == nil || !errors.Is(err, ErrBusy) && err.Error() != ErrBusy.Error() {
			t.Errorf("%s meanwhile: %v", what, err)
		}
	}
	leave()
	for what, err := range ask() { // all but the audit ask for what there is not
		if (err == nil) != (what == "audit") || err != nil && err.Error() == ErrBusy.Error() {
			t.Errorf("%s afterwards: %v", what, err)
		}
	}
}
