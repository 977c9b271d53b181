package lab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// Bytes on the wire are counted at the interface by which a host is in the
// network of the hosts. What a device counts there are super frames of up to
// 64 KiB with one header (TCP's segmentation offload), each of which would be
// many packets on a real wire. The kernel counts those too, so that the headers
// of all can be added.

// traffic is what a host has sent and received, on the wire.
type traffic struct{ out, in int64 }

func (t traffic) since(u traffic) (out, in int64) { return t.out - u.out, t.in - u.in }

// segmentHeader is what each further segment of a super frame has on the wire:
// Ethernet, IP, and TCP with its time stamps.
const segmentHeader = 14 + 20 + 32

// count is the source host's traffic. A host that cannot be read counts none.
func (m *migration) count() (t traffic) {
	plan, f := m.lab.Plan(), m.lab.Fabric()
	if plan == nil || f == nil {
		return t
	}
	i := slices.IndexFunc(plan.Links, func(l topo.Link) bool { return l.VPC == topo.Infra && l.A.Node == m.from })
	if i < 0 {
		return t
	}
	t, err := countAt(f, m.from, plan.Links[i].A.Ifname)
	if err != nil {
		m.lab.log.Warn("bytes on the wire are not counted", "host", m.from, "error", err)
	}
	return t
}

// countAt reads the counters of a host.
func countAt(f *fabric.Fabric, node, ifname string) (t traffic, err error) {
	err = f.Do(node, func() error {
		dev, err := deviceCounters(ifname)
		if err != nil {
			return err
		}
		tcp, err := protocolCounters("/proc/thread-self/net/snmp", "Tcp", "OutSegs")
		if err != nil {
			return err
		}
		ip := int64(0)
		for _, name := range []string{"InNoECTPkts", "InECT1Pkts", "InECT0Pkts", "InCEPkts"} {
			n, err := protocolCounters("/proc/thread-self/net/netstat", "IpExt", name)
			if err != nil {
				return err
			}
			ip += n
		}
		t.out = dev.outBytes + segmentHeader*max(0, tcp-dev.outPackets)
		t.in = dev.inBytes + segmentHeader*max(0, ip-dev.inPackets)
		return nil
	})
	if err != nil {
		err = fmt.Errorf("counters of %s:%s: %w", node, ifname, err)
	}
	return t, err
}

type device struct{ inBytes, inPackets, outBytes, outPackets int64 }

// deviceCounters reads /proc/net/dev of the namespace that the thread is in.
func deviceCounters(ifname string) (d device, err error) {
	f, err := os.Open("/proc/thread-self/net/dev")
	if err != nil {
		return d, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, rest, ok := strings.Cut(strings.TrimSpace(lines.Text()), ":")
		if !ok || name != ifname {
			continue
		}
		n := strings.Fields(rest)
		if len(n) < 10 {
			break
		}
		for i, p := range map[int]*int64{0: &d.inBytes, 1: &d.inPackets, 8: &d.outBytes, 9: &d.outPackets} {
			if *p, err = strconv.ParseInt(n[i], 10, 64); err != nil {
				return d, err
			}
		}
		return d, nil
	}
	return d, errors.Join(lines.Err(), fmt.Errorf("no interface %s", ifname))
}

// protocolCounters reads one number of a file with a line of names above each
// line of numbers.
func protocolCounters(file, protocol, name string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	var names []string
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 0 || words[0] != protocol+":":
		case names == nil:
			names = words
		default:
			i := slices.Index(names, name)
			if i < 0 || i >= len(words) {
				return 0, fmt.Errorf("%s counts no %s of %s", file, name, protocol)
			}
			return strconv.ParseInt(words[i], 10, 64)
		}
	}
	return 0, errors.Join(lines.Err(), fmt.Errorf("%s has nothing of %s", file, protocol))
}
