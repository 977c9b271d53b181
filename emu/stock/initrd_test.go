package stock

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// initrdOf makes an archive by calls in the given order.
func initrdOf(t *testing.T, calls ...func(*Initrd)) []byte {
	t.Helper()
	a := NewInitrd()
	for _, call := range calls {
		call(a)
	}
	var b bytes.Buffer
	if err := a.Pack(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestInitrdIsTheSameBytesWhateverTheOrder(t *testing.T) {
	host := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(host, []byte("\x7fELF and so on"), 0o600); err != nil {
		t.Fatal(err)
	}
	calls := []func(*Initrd){
		func(a *Initrd) { a.Copy("/init", 0o755, host) },
		func(a *Initrd) { a.CharDevice("dev/console", 0o600, 5, 1) },
		func(a *Initrd) { a.Symlink("/bin", "usr/bin") },
		func(a *Initrd) { a.File("/usr/bin/a/deep/one", 0o644, []byte("four")) },
		func(a *Initrd) { a.Folder("/tmp", 0o1777) },
	}
	first := initrdOf(t, calls...)
	for i := range calls {
		turned := append(append([]func(*Initrd){}, calls[i:]...), calls[:i]...)
		if !bytes.Equal(initrdOf(t, turned...), first) {
			t.Errorf("begun with call %d the archive is another", i)
		}
	}
	if len(first)%4 != 0 {
		t.Errorf("%d bytes are no multiple of four", len(first))
	}
	var names []string
	for _, part := range strings.Split(string(first), "070701")[1:] {
		name, _, _ := strings.Cut(part[104:], "\x00")
		names = append(names, name)
	}
	want := "bin dev dev/console init tmp usr usr/bin usr/bin/a usr/bin/a/deep usr/bin/a/deep/one " + cpioTrailer
	if got := strings.Join(names, " "); got != want {
		t.Errorf("the archive holds\n%s, want\n%s", got, want)
	}
}

func TestInitrdEntryIsWrittenAsTheKernelReadsIt(t *testing.T) {
	got := string(initrdOf(t, func(a *Initrd) { a.CharDevice("/dev", 0o600, 5, 1) }))
	want := "070701" + // magic
		"00000001" + "00002180" + "00000000" + "00000000" + "00000001" + // inode, mode, user, group, links
		"00000000" + "00000000" + "00000000" + "00000000" + // time, size, device
		"00000005" + "00000001" + "00000004" + "00000000" + // device it is, name, sum
		"dev\x00" + "\x00\x00"
	if !strings.HasPrefix(got, want) {
		t.Errorf("the entry is\n%q, want\n%q", got[:min(len(got), len(want))], want)
	}
}

func TestInitrdNamesTheFileThatIsNotThere(t *testing.T) {
	a := NewInitrd()
	a.Copy("/lib/x.ko", 0o644, "/nonexistent/x.ko")
	err := a.Pack(&bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "initrd: /lib/x.ko: open /nonexistent/x.ko") {
		t.Errorf("the error is %v", err)
	}
}
