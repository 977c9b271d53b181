package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/hypervisor"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/lease"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/emu/repair"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/topo"
)

// TestMain lets this test binary be the speaker that a lab starts in each
// router.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		body, is := map[string]func() error{"speaker": speakerBody, hypervisor.Verb: hypervisorBody, guest.Verb: guestBody, lease.Verb: witnessBody, repair.Verb: repairBody}[os.Args[1]]
		if is {
			if err := body(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// The bodies of the hidden verbs that a lab runs.

func speakerBody() error {
	conn, err := bgp.ControlConn()
	if err != nil {
		return err
	}
	return bgp.RunSpeaker(context.Background(), conn)
}

func repairBody() error { return repair.Run(context.Background()) }

func hypervisorBody() error {
	conn, err := hypervisor.ControlConn()
	if err != nil {
		return err
	}
	return hypervisor.Run(context.Background(), conn, os.Args[2], os.Args[3], os.Args[4], os.Args[5])
}

func witnessBody() error {
	conn, err := lease.ControlConn()
	if err != nil {
		return err
	}
	return lease.Run(context.Background(), conn, os.Args[2], os.Args[3], os.Args[4])
}

func guestBody() error {
	c, err := guest.ParseConfig(os.Args[2])
	if err != nil {
		return err
	}
	if c.Spec.Kind == guest.KindQEMU {
		return vmm.Run(context.Background(), c, os.Stdout)
	}
	return guest.Run(context.Background(), c, os.Stdout)
}

// limit bounds a test that waits for a lab.
func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// deployed is a lab that is built, and is destroyed and checked for remains at
// the end of the test.
func deployed(t *testing.T, text string) (*Lab, *topo.Plan) {
	t.Helper()
	plan := planOf(t, text)
	l := New(Config{Name: plan.Lab, Substrate: "uml"})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Destroy(ctx); err != nil {
			t.Error(err)
		}
		nothingLeft(t)
	})
	if _, err := l.Apply(limit(t), plan); err != nil {
		t.Fatal(err)
	}
	return l, plan
}

func nothingLeft(t *testing.T) {
	t.Helper()
	labs, err := fabric.List()
	if err != nil || len(labs) > 0 {
		t.Errorf("left in the kernel: %+v (%v)", labs, err)
	}
	if left, _ := filepath.Glob("/run/netns/vpclab-*"); len(left) > 0 {
		t.Errorf("namespaces are left: %v", left)
	}
}

// vpnRoutes counts the routes with labels in a PE's VRFs, as the kernel has
// them.
func vpnRoutes(t *testing.T, l *Lab, pe string) int {
	t.Helper()
	tables, err := mpls.Read(l.Fabric().NSPath(pe))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, v := range tables.VRFs {
		for _, r := range v.Routes {
			if len(r.Labels) > 0 {
				n++
			}
		}
	}
	return n
}

// waitEvent reads events until one of kind at node comes.
func waitEvent(t *testing.T, ctx context.Context, sub *Subscription, node, kind string) event.Event {
	t.Helper()
	for {
		select {
		case e := <-sub.C:
			if e.Node == node && e.Kind == kind {
				return e
			}
		case <-ctx.Done():
			t.Fatalf("no event %s of %s came", kind, node)
		}
	}
}

func TestApplyConvergesAndSitesJoinAndLeave(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, threeSites)
	ctx := limit(t)
	first := l.Status()
	if first.State != "running" || first.VPNRoutes != 5 || first.Speakers != 3 {
		t.Fatalf("after Apply: %+v", first)
	}
	tl := first.Setup
	if !(tl.Request < tl.Fabric && tl.Fabric <= tl.Configured && tl.Configured <= tl.Policy && tl.Announced > tl.Request && tl.Programmed >= tl.Announced) {
		t.Errorf("the stages are out of order: %+v", tl)
	}
	if tl.Added != 5 || tl.Nodes["pe1"].Routes != 3 || tl.Nodes["pe2"].Routes != 2 {
		t.Errorf("5 routes, 3 of them at pe1, were to be programmed: %+v", tl)
	}
	t.Logf("set up: %+v", tl.Stages())

	p, err := l.Preview(plan)
	if err != nil || !p.Empty() {
		t.Errorf("the same plan would change something: %v %v", p, err)
	}
	again, err := l.Apply(ctx, plan)
	if err != nil || again.Changes+again.Added+again.Removed != 0 {
		t.Errorf("the same plan changed something: %+v %v", again, err)
	}

	less := plan.Detach(func(a topo.Attachment) bool { return a.VPC == "x" && a.Site == "c" })
	left, err := l.Apply(ctx, less)
	if err != nil {
		t.Fatal(err)
	}
	if left.Removed != 1 || left.Added != 0 || vpnRoutes(t, l, "pe1") != 2 || left.Withdrawn <= left.Request || left.Withdrawn > left.Fabric {
		t.Errorf("one route was to go, before the kernel objects: %+v", left)
	}
	back, err := l.Apply(ctx, plan)
	if err != nil {
		t.Fatal(err)
	}
	if back.Removed != 0 || back.Added != 1 || vpnRoutes(t, l, "pe1") != 3 {
		t.Errorf("one route was to come: %+v", back)
	}
	t.Logf("join: %+v", back.Stages())
}

func TestADeadSpeakerIsBroughtBack(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, threeSites)
	ctx := limit(t)
	sub := l.Subscribe()
	defer sub.Close()
	for _, node := range []string{"pe1", "rr"} {
		proc, ok := l.Speaker(node)
		if !ok {
			t.Fatalf("%s has no speaker", node)
		}
		if err := proc.Kill(); err != nil {
			t.Fatal(err)
		}
		waitEvent(t, ctx, sub, node, "speaker.restarted")
		if _, err := l.Apply(ctx, plan); err != nil {
			t.Fatalf("after the death of %s: %v", node, err)
		}
		if a, b := vpnRoutes(t, l, "pe1"), vpnRoutes(t, l, "pe2"); a != 3 || b != 2 {
			t.Errorf("after the death of %s: %d and %d VPN routes, want 3 and 2", node, a, b)
		}
		rep, err := l.Inspect(ctx, InspectRequest{Sections: []Section{BGP}, Nodes: []string{node}})
		if err != nil || len(rep.BGP) != 1 || rep.BGP[0].Restarts != 1 || !rep.BGP[0].Running || rep.BGP[0].Fault == "" {
			t.Errorf("inspect does not tell of the death: %+v %v", rep.BGP, err)
		}
	}
}

func TestASpeakerThatDiesFailsTheApplyThatWaits(t *testing.T) {
	kerneltest.Need(t)
	plan := planOf(t, threeSites)
	l := New(Config{})
	killed := false
	_, err := l.ApplyWith(limit(t), plan, ApplyOptions{Progress: func(p Phase) {
		if p.Name != "policy" || killed {
			return
		}
		killed = true
		if proc, ok := l.Speaker("pe2"); ok {
			_ = proc.Kill()
			<-proc.Done()
		}
	}})
	if err == nil || !strings.Contains(err.Error(), "the BGP speaker of pe2 died") || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v, want an error that names the speaker and how it died", err)
	}
	nothingLeft(t)
	if s := l.Status(); s.Nodes != 0 || s.Error == "" {
		t.Errorf("after an Apply that was undone: %+v", s)
	}
}

func TestAnInterruptedFirstApplyLeavesNothing(t *testing.T) {
	kerneltest.Need(t)
	plan := planOf(t, threeSites)
	for _, phase := range []string{"fabric", "speakers", "configure", "policy", "converge"} {
		ctx, cancel := context.WithCancelCause(limit(t))
		gone := errors.New("the user went away")
		l := New(Config{})
		_, err := l.ApplyWith(ctx, plan, ApplyOptions{Progress: func(p Phase) {
			if p.Name == phase {
				cancel(gone)
			}
		}})
		cancel(nil)
		if err != nil && !errors.Is(err, gone) {
			t.Errorf("interrupted in %s: %v", phase, err)
		}
		if err == nil { // it came through: nothing was left to wait for
			if err := l.Destroy(limit(t)); err != nil {
				t.Error(err)
			}
		}
		nothingLeft(t)
	}
}

func TestAFailedChangeLeavesTheLabRunning(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, threeSites)
	ctx, cancel := context.WithCancel(limit(t))
	less := plan.Detach(func(a topo.Attachment) bool { return a.VPC == "x" && a.Site == "c" })
	if _, err := l.ApplyWith(ctx, less, ApplyOptions{Progress: func(p Phase) {
		if p.Name == "fabric" {
			cancel()
		}
	}}); err == nil {
		t.Fatal("an interrupted change gave no error")
	}
	if s := l.Status(); s.State != "degraded" || s.Nodes == 0 || s.Error == "" {
		t.Errorf("after a failed change: %+v", s)
	}
	if _, err := l.Apply(limit(t), plan); err != nil {
		t.Errorf("the lab cannot be mended: %v", err)
	}
	if s := l.Status(); s.State != "running" || s.VPNRoutes != 5 {
		t.Errorf("after it was mended: %+v", s)
	}
}

// served is a deployed lab behind its API.
func served(t *testing.T, text string) *Client {
	t.Helper()
	plan := planOf(t, text)
	sock := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, New(Config{Name: plan.Lab}), nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		nothingLeft(t)
	})
	c := NewClient(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", sock)
	})
	if _, err := c.Deploy(limit(t), DeployRequest{File: "t", Source: []byte(text)}, nil); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestProcessesAndFramesOverTheAPI(t *testing.T) {
	kerneltest.Need(t)
	c := served(t, threeSites)
	ctx := limit(t)
	rep, err := c.Inspect(ctx, InspectRequest{})
	if err != nil {
		t.Fatal(err)
	}
	machine := map[string]NodeInfo{}
	for _, n := range rep.Nodes {
		if n.Kind == "machine" {
			machine[n.VPC+" "+n.Site] = n
		}
	}
	from, to := machine["x a"].Name, strings.Split(machine["x b"].Addresses[0], "/")[0]
	if len(rep.Routes) == 0 || len(rep.LSPs) == 0 || len(rep.VRFs) != 4 || len(rep.BGP) != 3 || len(rep.Links) == 0 {
		t.Errorf("inspect gave %d routes, %d labels, %d VRFs, %d speakers, %d links", len(rep.Routes), len(rep.LSPs), len(rep.VRFs), len(rep.BGP), len(rep.Links))
	}
	var table bytes.Buffer
	rep.Text(&table)
	if !strings.Contains(table.String(), "VPN routes in the kernel") {
		t.Errorf("the tables lack the VPN routes:\n%s", &table)
	}

	var out, errs bytes.Buffer
	code, err := c.Exec(ctx, ExecRequest{Node: from, Cmd: []string{"sh", "-c", "cat; echo gone >&2; exit 9"}},
		ExecStreams{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errs})
	if err != nil || code != 9 || out.String() != "hello" || errs.String() != "gone\n" {
		t.Errorf("exec gave code %d, %q, %q, %v", code, &out, &errs, err)
	}
	out.Reset()
	code, err = c.Exec(ctx, ExecRequest{Node: from, Cmd: []string{"sh", "-c", "stty size; test -t 0"}, TTY: true, Rows: 33, Cols: 99}, ExecStreams{Stdout: &out, Stderr: io.Discard})
	if err != nil || code != 0 || strings.TrimSpace(out.String()) != "33 99" {
		t.Errorf("on a terminal exec gave code %d, %q, %v", code, &out, err)
	}
	_, err = c.Exec(ctx, ExecRequest{Node: "nosuch", Cmd: []string{"true"}}, ExecStreams{})
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Kind != "not-found" {
		t.Errorf("a node that is not there gave %v", err)
	}

	checkCapture(t, ctx, c, from, to)
	checkInterrupt(t, ctx, c, from)
}

// checkCapture pings over a captured core link.
func checkCapture(t *testing.T, ctx context.Context, c *Client, from, to string) {
	var file bytes.Buffer
	started, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- c.Capture(ctx, CaptureRequest{Links: []string{"pe1--p1"}, Count: 6}, &file, func() { close(started) })
	}()
	<-started
	code, err := c.Exec(ctx, ExecRequest{Node: from, Cmd: []string{"ping", "-c", "3", "-i", "0.1", "-W", "5", to}}, ExecStreams{Stdout: io.Discard, Stderr: io.Discard})
	if err != nil || code != 0 {
		t.Errorf("ping gave code %d, %v", code, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewNgReader(&file, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	frames, labelled := 0, 0
	names := map[string]bool{}
	for {
		data, ci, err := r.ReadPacketData()
		if err != nil {
			break
		}
		frames++
		if i, err := r.Interface(ci.InterfaceIndex); err == nil {
			names[i.Name] = true
			if !strings.HasPrefix(i.Comment, "link ") {
				t.Errorf("interface %s does not name its link: %q", i.Name, i.Comment)
			}
		}
		if len(data) > 14 && layers.EthernetType(uint16(data[12])<<8|uint16(data[13])) == layers.EthernetTypeMPLSUnicast {
			labelled++
		}
	}
	if frames != 6 || labelled == 0 || len(names) == 0 {
		t.Errorf("%d frames, %d of them labelled, on %v", frames, labelled, names)
	}
}

// checkInterrupt ends a process by ending the request.
func checkInterrupt(t *testing.T, ctx context.Context, c *Client, node string) {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := c.Exec(ctx, ExecRequest{Node: node, Cmd: []string{"sh", "-c", "trap 'exit 5' INT; echo up; while :; do sleep 0.1; done"}}, ExecStreams{Stdout: w, Stderr: io.Discard})
		done <- result{code, err}
	}()
	if _, err := r.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if got := <-done; got.err != nil || got.code != 5 {
		t.Errorf("an interrupted process gave %+v, want its own exit code 5", got)
	}
}
