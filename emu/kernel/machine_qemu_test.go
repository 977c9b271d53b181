package kernel

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
)

// A machine in QEMU answers as User Mode Linux does, its channel carries much in
// both directions, and what it writes is on the host when it says so.
func TestQEMUBootEchoAndStop(t *testing.T) {
	dir, results := t.TempDir(), t.TempDir()
	m := boot(t, Config{Substrate: QEMU, Dir: dir, Writable: []string{results}, InitArgs: []string{"one", "two words"}})
	t.Logf("booted %s in %v; without: %v", m.Release, m.BootTime, m.Without)
	if len(m.Without) > 0 {
		t.Errorf("without %v", m.Without)
	}
	if args, err := io.ReadAll(ask(t, m, "args")); err != nil || string(args) != "[one two words]" {
		t.Errorf("args inside: %q, %v", args, err)
	}
	first := readClock(t, m)
	checkBulk(t, m, 16<<20, 8<<20)
	checkClock(t, first, readClock(t, m))
	path := filepath.Join(results, "file, with a comma")
	conn := ask(t, m, "write")
	fmt.Fprintln(conn, path)
	if said, err := io.ReadAll(conn); err != nil || string(said) != "<nil>" {
		t.Errorf("writing %s inside: %s, %v", path, said, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "from inside\n" {
		t.Errorf("what was written inside is on the host: %q, %v", text, err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.Err() != nil {
		t.Errorf("after Stop, Err is %v", m.Err())
	}
	checkGone(t, dir)
}

// checkBulk moves bytes out of the machine and into it, both at once.
func checkBulk(t *testing.T, m *Machine, out, in int64) {
	t.Helper()
	source, sink := ask(t, m, "source"), ask(t, m, "sink")
	came := make(chan error, 1)
	go func() {
		if err := binary.Write(source, binary.BigEndian, uint64(out)); err != nil {
			came <- err
			return
		}
		n, err := io.Copy(io.Discard, source)
		if err == nil && n != out {
			err = fmt.Errorf("%d bytes came of %d", n, out)
		}
		came <- err
	}()
	err := binary.Write(sink, binary.BigEndian, uint64(in))
	if err == nil {
		_, err = io.CopyN(sink, zeros{}, in)
	}
	if err == nil {
		_, err = io.ReadFull(sink, make([]byte, 1)) // it has it all
	}
	if err != nil {
		t.Errorf("bytes into the machine: %v", err)
	}
	if err := <-came; err != nil {
		t.Errorf("bytes out of the machine: %v", err)
	}
}

// clockReading is the time inside, and the times here before it was asked for and
// after it came, all in ns.
type clockReading struct{ inside, before, after int64 }

func readClock(t *testing.T, m *Machine) clockReading {
	t.Helper()
	r := clockReading{before: int64(event.Now())}
	if err := binary.Read(ask(t, m, "clock"), binary.BigEndian, &r.inside); err != nil {
		t.Fatalf("time inside: %v", err)
	}
	r.after = int64(event.Now())
	return r
}

// checkClock: time passes inside as it does here, however busy this machine is.
func checkClock(t *testing.T, a, b clockReading) {
	t.Helper()
	inside := float64(b.inside - a.inside)
	least, most := float64(b.before-a.after), float64(b.after-a.before)
	t.Logf("%.3f s inside, %.3f to %.3f s here", inside/1e9, least/1e9, most/1e9)
	if inside < 0.999*least || inside > 1.001*most {
		t.Errorf("%.3f s passed inside while %.3f to %.3f s passed here", inside/1e9, least/1e9, most/1e9)
	}
}

func TestQEMUExecStreamsFilesAndCode(t *testing.T) {
	dir := t.TempDir() // below /tmp, which is empty inside but for what is asked for
	if err := os.WriteFile(filepath.Join(dir, "host"), []byte("seen\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `cat; echo $COLOUR $VPCLAB_INSIDE $(id -u) $(hostname); cat ` + dir + `/host
echo made > ` + dir + `/new && mv ` + dir + `/new ` + dir + `/made && echo can write there
touch /etc/vpclab-was-here 2>/dev/null || echo cannot write elsewhere
echo x > /tmp/x && echo x > /run/x && echo x > /dev/shm/x && echo scratch is writable
echo oops >&2; (sleep 1000 &) ; exit 7`
	code, out, errs := run(t, Config{Substrate: QEMU, Lab: "box", Writable: []string{dir}}, strings.NewReader("some input\n"), script)
	want := "some input\nblue qemu 0 box\nseen\ncan write there\ncannot write elsewhere\nscratch is writable\n"
	if code != 7 || out != want || errs != "oops\n" {
		t.Errorf("code %d, stdout:\n%swant:\n%sstderr: %s", code, out, want, errs)
	}
	if made, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(made) != "made\n" {
		t.Errorf("on the host: %q, %v", made, err)
	}
}

func TestQEMUExecSignals(t *testing.T) {
	needKernel(t, QEMU)
	out := &syncWriter{word: "waiting", seen: func() { _ = unix.Kill(os.Getpid(), unix.SIGUSR1) }}
	code, err := Exec(t.Context(), Config{Substrate: QEMU, Memory: smallMemory(QEMU)},
		[]string{"sh", "-c", `trap 'echo got it; kill -TERM $$' USR1; echo waiting; while :; do sleep 0.1; done`}, os.Environ(), nil, out, os.Stderr)
	if err != nil || code != 128+15 || !strings.Contains(out.got.String(), "got it") {
		t.Errorf("code %d, %v, output %q; want the command ended by a signal", code, err, out.got.String())
	}
}

// What a lab asks of QEMU is said in one line, with what mends it.
func TestQEMUWithoutImage(t *testing.T) {
	if _, err := findQEMU(t.Context()); err != nil {
		t.Skip(err)
	}
	t.Setenv("VPCLAB_QEMU_KERNEL", filepath.Join(t.TempDir(), "vmlinuz-none"))
	_, err := Start(t.Context(), Config{Substrate: QEMU})
	if !IsUnusable(err) || !strings.Contains(err.Error(), "VPCLAB_QEMU_KERNEL") {
		t.Errorf("got %v, want an Unusable that names VPCLAB_QEMU_KERNEL", err)
	}
}

// An earlier trial of KVM holds for this start of the machine and this QEMU only.
func TestKVMAnswerHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), kvmAnswerName)
	if err := os.WriteFile(path, []byte(`{"boot":"b1","qemu":"7.2","ok":true,"why":"w"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		want kvmAnswer
		ok   bool
	}{
		"the same":            {path, kvmAnswer{Boot: "b1", QEMU: "7.2"}, true},
		"after a restart":     {path, kvmAnswer{Boot: "b2", QEMU: "7.2"}, false},
		"another QEMU":        {path, kvmAnswer{Boot: "b1", QEMU: "9.0"}, false},
		"no name of the boot": {path, kvmAnswer{QEMU: "7.2"}, false},
		"nothing kept":        {path + "x", kvmAnswer{Boot: "b1", QEMU: "7.2"}, false},
	} {
		if a, ok := readKVMAnswer(c.path, c.want); ok != c.ok || ok && !a.OK {
			t.Errorf("%s: %+v, %v", name, a, ok)
		}
	}
}
