package lab

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

const lanOfClouds = `name: clouds
topology:
  backbone: {pe: [pe1, pe2], links: [{between: [pe1, pe2]}]}
  sites:
    texas: {kind: cloud, pe: pe1, machines: 1}
    illinois: {kind: cloud, pe: pe2, machines: 1}
vpcs:
  x: {service: vpls, sites: [texas, illinois]}
vms:
  shop: {vpc: x, host: texas/1}
`

// TestWhoMovedIsAnnouncedWhereItIs: bridges learn where a machine is that never
// speaks, whatever brought it there: an operation, a deployment of the file, or
// the one that comes after a move which failed.
func TestWhoMovedIsAnnouncedWhereItIs(t *testing.T) {
	kerneltest.Need(t)
	c := served(t, lanOfClouds)
	ctx := limit(t)
	move := func(host string, deadline time.Duration) error {
		_, err := c.Operate(ctx, OperateRequest{Operation: topo.Operation{Do: "move", VM: "shop", Host: host}, Deadline: deadline}, nil)
		return err
	}
	if err := move("illinois/1", 0); err != nil {
		t.Fatal(err)
	}
	ports(t, ctx, c, "shop", map[string]string{"pe1": "pw", "pe2": "x-2"})

	deploy := func() {
		t.Helper()
		if _, err := c.Deploy(ctx, DeployRequest{File: "t", Source: []byte(lanOfClouds)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	deploy()
	ports(t, ctx, c, "shop", map[string]string{"pe1": "x-1", "pe2": "pw"})

	// illinois leaves, so that a move there waits for pseudowires, longer than
	// it may; unless they are faster than the wait begins.
	err := error(nil)
	for try := 0; err == nil && try < 20; try++ {
		if try > 0 {
			deploy()
		}
		if _, err := c.Operate(ctx, OperateRequest{Operation: topo.Operation{Do: "leave", VPC: "x", Site: "illinois"}}, nil); err != nil {
			t.Fatal(err)
		}
		err = move("illinois/1", time.Nanosecond)
	}
	if err == nil || !strings.Contains(err.Error(), "waited 1ns for VPN routes") {
		t.Fatalf("a move without time gives %v", err)
	}
	if err := move("illinois/1", 0); err != nil {
		t.Fatal(err)
	}
	ports(t, ctx, c, "shop", map[string]string{"pe1": "pw", "pe2": "x-2"})
}

// TestWhoMovedKnowsItsNeighboursStill: a VM takes its memory along, and with it
// the MACs that it knows. Without them its first packet asks for one at a
// moment when nobody hears it, and again a second later.
func TestWhoMovedKnowsItsNeighboursStill(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, lanOfClouds)
	other, _ := plan.Node("x-texas-1")
	macs := func() (found []string) {
		err := inMachine(l.Fabric(), "shop", func(h *netlink.Handle, eth0 netlink.Link) error {
			list, err := h.NeighList(eth0.Attrs().Index, netlink.FAMILY_V4)
			for _, n := range list {
				if n.State&known != 0 {
					found = append(found, n.IP.String()+" "+n.HardwareAddr.String())
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	err := l.Fabric().Do("shop", func() error {
		c, err := net.Dial("udp4", netip.AddrPortFrom(other.Addr, 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("who has this address?"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	deadline, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for len(macs()) == 0 { // the kernel's answer to the packet; nothing tells of it but a look
		if deadline.Err() != nil {
			t.Fatal("waited 5s: shop has not learned the MAC of " + other.Addr.String())
		}
	}
	before := macs()
	if _, err := l.Operate(limit(t), topo.Operation{Do: "move", VM: "shop", Host: "illinois/1"}, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if after := macs(); !slices.Equal(before, after) {
		t.Errorf("shop knew %v before it moved and knows %v", before, after)
	}
}

// ports holds behind which ports the PEs' bridges have a machine, by how their
// names begin.
func ports(t *testing.T, ctx context.Context, c *Client, machine string, want map[string]string) {
	t.Helper()
	rep, err := c.Inspect(ctx, InspectRequest{Sections: []Section{MACs}})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for _, m := range rep.MACs {
		if m.Owner == machine {
			have[m.Node] = m.Port
		}
	}
	for pe, port := range want {
		if !strings.HasPrefix(have[pe], port) {
			t.Errorf("%s has %s behind %q, want %s…", pe, machine, have[pe], port)
		}
	}
}

// TestFilesThatRenumberRouters: a file that gives routers other numbers, or all
// of them another AS, can be deployed over a running lab, and back.
func TestFilesThatRenumberRouters(t *testing.T) {
	kerneltest.Need(t)
	c := served(t, lanOfClouds)
	ctx := limit(t)
	more := strings.Replace(lanOfClouds, "{pe: [pe1, pe2], links: [", "{pe: [pe1, pe2, pe3], links: [{between: [pe2, pe3]}, ", 1)
	if r, err := c.Deploy(ctx, DeployRequest{File: "t", Source: []byte(more)}, nil); err != nil || r.Done.Removed != 0 {
		t.Errorf("a PE more, behind the others, takes pseudowires away: %+v, %v", r, err)
	}
	for _, text := range []string{
		strings.Replace(lanOfClouds, "{pe: [pe1, pe2], links: [", "{pe: [pe0, pe1, pe2], links: [{between: [pe0, pe1]}, ", 1),
		strings.Replace(lanOfClouds, "{pe: ", "{asn: 64999, pe: ", 1),
		lanOfClouds,
	} {
		if _, err := c.Deploy(ctx, DeployRequest{File: "t", Source: []byte(text)}, nil); err != nil {
			t.Fatal(err)
		}
		res, err := c.Exec(ctx, ExecRequest{Node: "x-illinois-1", Cmd: []string{"ping", "-c", "1", "-W", "5", "10.1.1.11"}}, ExecStreams{Stdout: io.Discard, Stderr: io.Discard})
		if err != nil || res != 0 {
			t.Errorf("after a deployment of\n%s\nping gives code %d, %v", text, res, err)
		}
		again, err := c.Deploy(ctx, DeployRequest{File: "t", Source: []byte(text), DryRun: true}, nil)
		if err != nil || !again.Preview.Empty() {
			t.Errorf("the same again would change: %+v, %v", again, err)
		}
	}
}
