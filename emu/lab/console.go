package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/topo"
)

// consolePath is where the console of a VM is, at the host that it belongs to; ""
// where the VM has none.
func (l *Lab) consolePath(n topo.Node) string {
	record := l.hypers.record()
	if !n.OwnKernel() || record == nil {
		return ""
	}
	host := record.of(n.Name)
	if host == "" {
		host = n.Host
	}
	return filepath.Join(l.hypers.dir, "hosts", host, n.Name, vmm.ConsoleFile)
}

// Console opens what a VM with a kernel of its own has written on its console
// since it came to its host.
func (l *Lab) Console(vm string) (*os.File, error) {
	plan := l.Plan()
	if plan == nil {
		return nil, ErrNotBuilt
	}
	n, err := guestOf(plan, vm)
	if err != nil {
		return nil, err
	}
	if !n.OwnKernel() {
		return nil, fmt.Errorf("%w: VM %s has no console: it is a process guest, and what it says is on the time line (vpclab events)", errBadRequest, vm)
	}
	f, err := os.Open(l.consolePath(*n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &NoSuchError{What: "console of a VM that has started", Name: vm}
	}
	return f, err
}

// console answers with the bytes.
func (s *server) console(w http.ResponseWriter, r *http.Request) {
	f, err := s.lab.Console(r.URL.Query().Get("vm"))
	if err != nil {
		fail(w, err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.Copy(w, f) // the client has gone
}

// Console copies to w what a VM has written on its console.
func (c *Client) Console(ctx context.Context, vm string, w io.Writer) error {
	res, err := c.do(ctx, http.MethodGet, "/v1/console", url.Values{"vm": {vm}}, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(w, res.Body)
	return err
}
