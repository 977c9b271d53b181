package fabric_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// TestReplugHot takes a VM's port from host to host while a client talks to it
// over TCP: the connection goes on, and afterwards the kernel holds what a plan
// with the VM there says.
func TestReplugHot(t *testing.T) {
	kerneltest.Need(t)
	sc, err := topo.Parse("hot.vpclab.yml", []byte(`name: hot
topology:
  backbone: {pe: [pe1, pe2], links: [{between: [pe1, pe2]}]}
  sites:
    a: {kind: cloud, pe: pe1, hosts: 2}
    b: {kind: enterprise, pe: pe2}
vpcs: {x: {service: vpls, sites: [a, b]}}
vms:
  vm: {vpc: x, host: a/1}
  client: {vpc: x, host: a/2}
`))
	require.NoError(t, err)
	plan, err := topo.Expand(sc)
	require.NoError(t, err)
	f, err := fabric.New("hot", nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Destroy(context.Background())) })
	_, err = f.Apply(t.Context(), fabric.Compile(plan))
	require.NoError(t, err)
	require.NoError(t, f.Do("vm", func() error {
		return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/arp_evict_nocarrier", []byte("0"), 0)
	}))
	ask := conversation(t, f, plan)
	require.NoError(t, ask())

	var took []time.Duration
	for i := range 20 {
		there := plan
		if i%2 == 0 {
			there, err = plan.Do(topo.Operation{Do: "move", VM: "vm", Host: "a/2"})
			require.NoError(t, err)
		}
		from, to := wireOf(f.Current().Links, "vm"), wireOf(fabric.Compile(there).Links, "vm")
		began := event.Now()
		require.NoError(t, f.Replug(t.Context(), name(from), to))
		took = append(took, event.Now().Sub(began))
		vm, _ := there.Node("vm")
		require.NoError(t, f.Announce(t.Context(), to.B.Node, to.B.Ifname, to.A.MAC, vm.Addr))
		require.NoError(t, ask(), "round %d", i)
		changes, err := f.Plan(fabric.Compile(there))
		require.NoError(t, err)
		require.Empty(t, changes.String(), "round %d: the kernel holds something else than the plan", i)
	}
	slices.Sort(took)
	t.Logf("moving the port took %v (median of %d, least %v, most %v)", took[len(took)/2], len(took), took[0], took[len(took)-1])
	err = f.Replug(t.Context(), "vm:eth0--nobody:vm", fabric.Link{})
	require.ErrorContains(t, err, "not there any more")
}

func name(l fabric.Link) string {
	return topo.Link{A: topo.Endpoint{Node: l.A.Node, Ifname: l.A.Ifname}, B: topo.Endpoint{Node: l.B.Node, Ifname: l.B.Ifname}}.Name()
}

func wireOf(links map[string]fabric.Link, machine string) fabric.Link {
	for _, l := range links {
		if l.A.Node == machine {
			return l
		}
	}
	return fabric.Link{}
}

// conversation opens a connection from client to vm; each call sends a line and
// waits for its echo.
func conversation(t *testing.T, f *fabric.Fabric, plan *topo.Plan) (ask func() error) {
	t.Helper()
	vm, _ := plan.Node("vm")
	var ln net.Listener
	require.NoError(t, f.Do("vm", func() (err error) {
		ln, err = net.Listen("tcp4", "0.0.0.0:7")
		return err
	}))
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	var conn net.Conn
	require.NoError(t, f.Do("client", func() (err error) {
		conn, err = net.DialTimeout("tcp4", fmt.Sprintf("%s:7", vm.Addr), 5*time.Second)
		return err
	}))
	t.Cleanup(func() { conn.Close() })
	in, n := bufio.NewReader(conn), 0
	return func() error {
		n++
		line := fmt.Sprintf("line %d\n", n)
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, line); err != nil {
			return err
		}
		got, err := in.ReadString('\n')
		if err == nil && got != line {
			err = fmt.Errorf("sent %q, got %q", line, got)
		}
		return err
	}
}
