package speed

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netns"
)

// script builds the star as a person does who knows iproute2 well: one
// `ip -batch` makes all namespaces and links, ends in place, and then each
// namespace has to have an `ip -n … -batch` of its own.
func script(n int) (*built, error) {
	dir, err := os.MkdirTemp("", "speed-script-")
	if err != nil {
		return nil, err
	}
	s := scriptStar{dir: dir, n: n}
	if err := s.write(); err != nil {
		return nil, err
	}
	took, err := timed(func() error { return s.run("up") })
	if err != nil {
		return nil, err
	}
	return &built{took: took, within: s.within, destroy: func() (time.Duration, error) { return timed(s.destroy) }}, nil
}

// scriptStar is written before the clock starts.
type scriptStar struct {
	dir string
	n   int
}

func scriptNS(node string) string { return "speed-" + node }

func nsFile(node string) string { return "/run/netns/" + scriptNS(node) }

// write puts the batches and the scripts that call them into the folder.
func (s *scriptStar) write() error {
	batches := map[string]*bytes.Buffer{}
	line := func(file, format string, args ...any) {
		if batches[file] == nil {
			batches[file] = &bytes.Buffer{}
		}
		fmt.Fprintf(batches[file], format+"\n", args...)
	}
	line("up", "set -e")
	line("up", "ip -batch links")
	line("down", "set -e")
	line("down", "ip -batch gone")
	var links []string
	for h := range hubs(s.n) {
		hub := hubName(h)
		line("links", "netns add %s", scriptNS(hub))
		line(hub, "link add lan type bridge mcast_snooping 0 stp_state 0")
		line(hub, "link set lan up")
		line(hub, "addr add %s/%d dev lan", netip.AddrFrom4(hubAddr(h)), starBits)
		for i := h * perHub; i < min((h+1)*perHub, s.n); i++ {
			line(hub, "link set %s master lan up", portName(i))
		}
		line("up", "ip -n %s -batch %s", scriptNS(hub), hub)
		line("gone", "netns del %s", scriptNS(hub))
	}
	for i := range s.n {
		m := machineName(i)
		line("links", "netns add %s", scriptNS(m))
		links = append(links, fmt.Sprintf("link add %s netns %s numtxqueues 1 numrxqueues 1 type veth peer name eth0 numtxqueues 1 numrxqueues 1 netns %s", portName(i), scriptNS(hubName(i/perHub)), scriptNS(m)))
		line(m, "link set lo up")
		line(m, "addr add %s/%d dev eth0", netip.AddrFrom4(machineAddr(i)), starBits)
		line(m, "link set eth0 up")
		line(m, "route add default via %s", netip.AddrFrom4(hubAddr(i/perHub)))
		line("up", "ip -n %s -batch %s", scriptNS(m), m)
		line("gone", "netns del %s", scriptNS(m))
	}
	line("links", "%s", strings.Join(links, "\n"))
	for file, text := range batches {
		if err := os.WriteFile(filepath.Join(s.dir, file), text.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (s *scriptStar) run(file string) error {
	cmd := exec.Command("/bin/sh", file)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip script %s: %w: %s", file, err, firstLine(out))
	}
	return nil
}

func firstLine(out []byte) string {
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Scan()
	return sc.Text()
}

func (s *scriptStar) within(i int, fn func() error) error {
	return inNamespace(func() (netns.NsHandle, error) { return netns.GetFromPath(nsFile(machineName(i))) }, fn)
}

func (s *scriptStar) destroy() error {
	defer os.RemoveAll(s.dir)
	last, err := netns.GetFromPath(nsFile(machineName(s.n - 1)))
	if err != nil {
		return err
	}
	w, err := newWitness(int(last))
	last.Close()
	if err != nil {
		return err
	}
	defer w.close()
	if err := s.run("down"); err != nil {
		return err
	}
	return w.wait()
}
