package inside

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpclab/vpclab/emu/guest"
)

func TestOrdersComeInAsTheyWentOut(t *testing.T) {
	want := Orders{
		Protocol: Protocol,
		Spec:     guest.Spec{Name: "shop", Kind: guest.KindQEMU, Memory: 162 << 20, Work: 64 << 20, Disk: 16 << 20, Workload: guest.TPCW, Scale: 1. / 16, Seed: 1<<63 + 7, Port: 80},
		Address:  netip.MustParsePrefix("10.0.0.2/24"), Gateway: netip.MustParseAddr("10.0.0.1"), MTU: 1400,
	}
	line, err := KernelLine(want, 2596126)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for word := range strings.FieldsSeq(line) {
		if rest, ok := strings.CutPrefix(word, envOrders+"="); ok {
			text = rest
		}
		if strings.Contains(strings.SplitN(word, "=", 2)[0], ".") && strings.HasPrefix(word, "VPC") {
			t.Errorf("%q: the kernel gives process 1 no words with a dot in their names", word)
		}
	}
	got, err := parseOrders(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
	if !strings.Contains(line, " tsc_early_khz=2596126 ") {
		t.Errorf("the line does not tell the rate of the counter: %s", line)
	}
}

func TestOrdersThatAreNone(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                    {"", "has no word VPCLAB_GUEST=…"},
		"no base64":                  {"?", "illegal base64"},
		"no JSON":                    {"aGVsbG8", "orders: invalid character"},
		"of a newer vpclab":          {"eyJQcm90b2NvbCI6OTksIk5vdmVsIjoxfQ", "orders are of version 99"},
		"of ours, with a new word":   {encode(`{"Protocol":1,"Novel":1}`), "unknown field"},
		"of ours, with no address":   {encode(`{"Protocol":1}`), ""},
		"of ours, with an IPv6 one":  {encode(`{"Protocol":1,"Address":"fd00::1/64"}`), "want an IPv4 address"},
		"of ours, with another IPv4": {encode(`{"Protocol":1,"Address":"10.0.0.1/24"}`), ""},
	} {
		_, err := parseOrders(c.text)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	long := Orders{Spec: guest.Spec{Name: strings.Repeat("x", mostLine)}}
	if _, err := KernelLine(long, 0); err == nil || !strings.Contains(err.Error(), "command line") {
		t.Errorf("orders longer than a command line: %v", err)
	}
}

// far is a port's inner end that answers as it is told.
func far(t *testing.T, say func(q request, out net.Conn)) *Link {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "port"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() {
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			var q request
			if json.Unmarshal(lines.Bytes(), &q) == nil {
				say(q, theirs)
			}
		}
	}()
	return NewLink(ours)
}

func TestLinkDropsWhatWasSaidToOthers(t *testing.T) {
	l := far(t, func(q request, out net.Conn) {
		fmt.Fprintf(out, "tus\":{}}\n{\"id\":%d,\"status\":{\"Steps\":1}}\nno JSON\n{\"id\":%d,\"protocol\":%d,\"status\":{\"Steps\":7,\"Late\":2},\"verified\":{\"Bad\":3}}\n", q.ID-1, q.ID, Protocol)
	})
	if err := l.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err := l.Status(t.Context()); err != nil || s.Steps != 7 || s.Late != 2 {
		t.Errorf("%+v, %v; want the answer to us", s, err)
	}
	if v, err := l.Verify(t.Context()); err != nil || v.Bad != 3 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestLinkNoticesAnOldProgram(t *testing.T) {
	l := far(t, func(q request, out net.Conn) { fmt.Fprintf(out, "{\"id\":%d,\"protocol\":%d}\n", q.ID, Protocol-1) })
	if err := l.Hello(t.Context()); err == nil || !strings.Contains(err.Error(), "not built together") || !strings.Contains(err.Error(), "./run.sh build") {
		t.Errorf("a payload of another version: %v", err)
	}
	l = far(t, func(q request, out net.Conn) { fmt.Fprintf(out, "{\"id\":%d,\"error\":\"no such thing\"}\n", q.ID) })
	if _, err := l.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "status: no such thing") {
		t.Errorf("a request that was refused: %v", err)
	}
}

// A wait that ended leaves the link of use: the late answer is dropped.
func TestLinkOutlivesItsCallers(t *testing.T) {
	held := make(chan struct{})
	first := true
	l := far(t, func(q request, out net.Conn) {
		if first {
			first = false
			<-held
		}
		fmt.Fprintf(out, "{\"id\":%d,\"status\":{\"Steps\":%d}}\n", q.ID, q.ID)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Status(ctx); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("nobody answers: %v", err)
	}
	close(held)
	if s, err := l.Status(t.Context()); err != nil || s.Steps != l.last {
		t.Errorf("%+v, %v; want the answer to request %d", s, err, l.last)
	}
}

func TestPortIsFoundByName(t *testing.T) {
	class := t.TempDir()
	for dev, name := range map[string]string{"vport0p1": "org.qemu.guest_agent.0\n", "vport1p2": PortName + "\n"} {
		if err := os.Mkdir(class+"/"+dev, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(class+"/"+dev+"/name", []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := findPort(class); got != "/dev/vport1p2" {
		t.Errorf("found %q", got)
	}
	if got := findPort(class + "/none"); got != "" {
		t.Errorf("where there is none: %q", got)
	}
}

func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
