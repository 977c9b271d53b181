package lab

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vpclab/vpclab/emu/migrate"
)

// TestOwners decides once, whoever asks again and in whichever order, and
// remembers it.
func TestOwners(t *testing.T) {
	dir := t.TempDir()
	open := func() *owners {
		t.Helper()
		o, err := openOwners(dir)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first, second := [16]byte{1}, [16]byte{2}
	o := open()
	must(o.set("shop", "a"))
	must(o.abort("shop", first))
	must(o.abort("shop", first))
	if err := o.commit("shop", first, "b"); !errors.Is(err, migrate.ErrAborted) || o.of("shop") != "a" {
		t.Errorf("commit after abort: %v, and it is %s's", err, o.of("shop"))
	}
	must(o.commit("shop", second, "b"))
	must(o.commit("shop", second, "b"))
	if err := o.abort("shop", second); !errors.Is(err, migrate.ErrCommitted) || o.of("shop") != "b" {
		t.Errorf("abort after commit: %v, and it is %s's", err, o.of("shop"))
	}
	must(o.set("gone", "a"))
	must(o.set("gone", ""))
	must(o.close())

	// What was being written when the writer died counts for nothing.
	f, err := os.OpenFile(filepath.Join(dir, ownersFile), os.O_APPEND|os.O_WRONLY, 0)
	must(err)
	_, err = f.WriteString(`{"vm":"shop","host":"c"`)
	must(errors.Join(err, f.Close()))
	o = open()
	if o.of("shop") != "b" || o.of("gone") != "" || o.decided(first) != aborted || o.decided(second) != committed || o.decided([16]byte{3}) != "" {
		t.Errorf("after opening again: %v, %v", o.host, o.verdict)
	}
	must(o.set("shop", "d"))
	must(o.close())
	o = open()
	if o.of("shop") != "d" {
		t.Errorf("what was written after half a line is lost: it is %s's", o.of("shop"))
	}
	must(o.close())
}

// TestCountersOfFiles reads counters in the forms that the kernel gives them.
func TestCountersOfFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "snmp")
	if err := os.WriteFile(file, []byte("Ip: Forwarding InReceives\nIp: 1 77\nTcp: InSegs OutSegs\nTcp: 5 12345678901\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := protocolCounters(file, "Tcp", "OutSegs"); err != nil || n != 12345678901 {
		t.Errorf("%d, %v", n, err)
	}
	for _, name := range [][2]string{{"Tcp", "Nothing"}, {"Udp", "InSegs"}} {
		if n, err := protocolCounters(file, name[0], name[1]); err == nil {
			t.Errorf("%v: %d", name, n)
		}
	}
	if d, err := deviceCounters("lo"); err != nil || d.inBytes != d.outBytes {
		t.Errorf("lo: %+v, %v", d, err)
	}
	if _, err := deviceCounters("no-such-device"); err == nil {
		t.Error("a device that is not there has counters")
	}
}
