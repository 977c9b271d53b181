package scenarios

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/traffic"
)

func enterByName(node string, fn func() error) error {
	n, err := ns.GetNS("/run/netns/" + node)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Do(func(ns.NetNS) error { return fn() })
}

// oneLAN makes machines x1 … xn on one bridge, of the tenants in turn.
func oneLAN(t *testing.T, n int, tenants ...string) (eps []traffic.Endpoint) {
	t.Helper()
	ip := func(node string, lines ...string) {
		args := []string{"-batch", "-"}
		if node != "" {
			args = append([]string{"-n", node}, args...)
		}
		cmd := exec.Command("ip", args...)
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n"))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	names := []string{"netns add lan"}
	inside := []string{"link add br0 type bridge mcast_snooping 0", "link set br0 up"}
	for i := 1; i <= n; i++ {
		names = append(names, fmt.Sprintf("netns add x%d", i))
		inside = append(inside, fmt.Sprintf("link add p%d type veth peer name eth0 netns x%d", i, i), fmt.Sprintf("link set p%d master br0 up", i))
		eps = append(eps, traffic.Endpoint{Name: fmt.Sprintf("x%d", i), VPC: tenants[(i-1)%len(tenants)], Addr: netip.AddrFrom4([4]byte{172, 16, 0, byte(i)})})
	}
	ip("", names...)
	t.Cleanup(func() {
		for _, l := range names {
			_ = exec.Command("ip", "netns", "del", strings.Fields(l)[2]).Run()
		}
	})
	ip("lan", inside...)
	for _, ep := range eps {
		ip(ep.Name, "link add vnic type bridge mcast_snooping 0", "link set eth0 master vnic up", "addr add "+ep.Addr.String()+"/24 dev vnic", "link set vnic up")
	}
	return eps
}

func TestFirewallIsolatesAndIsCounted(t *testing.T) {
	kerneltest.Need(t)
	eps := oneLAN(t, 7, "a", "b")
	spare, eps := eps[6], eps[:6] // x7 would be a's fourth
	p, err := traffic.Open(enterByName, append(eps, spare))
	require.NoError(t, err)
	t.Cleanup(p.Close)
	sameVPC := func(from, to traffic.Endpoint) bool { return from.VPC == to.VPC }
	var names []string
	for _, ep := range eps {
		names = append(names, ep.Name)
	}
	peers := func(of traffic.Endpoint) (out []netip.Addr) {
		for _, ep := range eps {
			if ep.VPC == of.VPC && ep.Name != of.Name {
				out = append(out, ep.Addr)
			}
		}
		return out
	}
	for _, c := range []struct {
		sets                  bool
		entries, added, moved int
	}{
		// 6 machines with 2 peers: 2 rules a peer, or 2 rules and an element
		// a peer. A fourth machine has 3 peers: 2*3 rules of its own and 2 at
		// each peer. When it moves each of 3 peers replaces 2 rules, or takes
		// an element out and puts one in.
		{false, 6 * 2 * 2, 2*3 + 3*2, 3 * 2},
		{true, 6 * (2 + 2), 2 + 3 + 3, 3 * 2},
	} {
		t.Run(fmt.Sprintf("sets=%v", c.sets), func(t *testing.T) {
			conns, err := openFirewalls(enterByName, append(eps, spare))
			require.NoError(t, err)
			defer func() { require.NoError(t, closeAll(conns)) }()
			fw := firewall{conns: conns, sets: c.sets}
			read := func(names ...string) entries {
				all := entries{}
				for _, n := range names {
					e, err := fw.read(n)
					require.NoError(t, err)
					all = merge(all, e)
				}
				return all
			}
			for _, ep := range append(eps, spare) {
				require.NoError(t, fw.shut(ep.Name))
			}
			m, err := p.Matrix(t.Context(), traffic.MatrixConfig{Allowed: func(_, _ traffic.Endpoint) bool { return false }})
			require.NoError(t, err)
			require.Zero(t, m.Leaks, "machines that are shut")
			for _, ep := range eps {
				_, err := fw.admit(ep.Name, peers(ep))
				require.NoError(t, err)
			}
			before := read(names...)
			require.Len(t, before, c.entries)
			m, err = p.Matrix(t.Context(), traffic.MatrixConfig{Among: names, Allowed: sameVPC})
			require.NoError(t, err)
			require.Equal(t, 12, m.Reached)
			require.Zero(t, m.Leaks)

			_, err = fw.admit(spare.Name, append(peers(eps[0]), eps[0].Addr))
			require.NoError(t, err)
			for _, i := range []int{0, 2, 4} {
				require.NoError(t, fw.add(eps[i].Name, spare.Addr))
			}
			added := read(append(names, spare.Name)...)
			require.Equal(t, c.added, touched(before, added), "%v", differences(before, added))
			m, err = p.Matrix(t.Context(), traffic.MatrixConfig{Allowed: sameVPC})
			require.NoError(t, err)
			require.Equal(t, 12+6, m.Reached)

			elsewhere := netip.MustParseAddr("172.16.0.99")
			for _, i := range []int{0, 2, 4} {
				require.NoError(t, fw.change(eps[i].Name, spare.Addr, elsewhere))
			}
			moved := read(append(names, spare.Name)...)
			require.Equal(t, c.moved, touched(added, moved), "%v", differences(added, moved))
		})
	}
}
