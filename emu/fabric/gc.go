package fabric

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netns"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// LabInfo is a lab found on this kernel.
type LabInfo struct {
	Lab   string `json:"lab"`
	Nodes int    `json:"nodes"`
	PID   int    `json:"pid"` // process that holds it; 0: nobody
}

// List finds the labs of this kernel, running or left behind.
func List() ([]LabInfo, error) {
	entries, err := os.ReadDir(recordDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var out []LabInfo
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		info := LabInfo{Lab: e.Name()}
		r, err := readRecord(e.Name())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return out, err
		}
		info.Nodes = len(r.Nodes)
		if lock, err := os.Open(lockPath(e.Name())); err == nil {
			if flocked(lock) {
				info.PID = holder(lock)
			}
			lock.Close()
		}
		out = append(out, info)
	}
	return out, nil
}

// GC removes what labs without a living owner left behind: processes in their
// namespaces, the namespaces and the record. alive may save further labs (nil:
// none). It removes what a record names and, where the record itself was lost,
// namespaces that carry our mark inside; nothing else is touched.
func GC(ctx context.Context, alive func(lab string) bool) (removed []string, err error) {
	labs, err := List()
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	var errs []error
	for _, l := range labs {
		if ctx.Err() != nil {
			return removed, errors.Join(append(errs, ctx.Err())...)
		}
		if alive != nil && alive(l.Lab) {
			kept[l.Lab] = true
			continue
		}
		lock, err := acquire(l.Lab)
		var held *HeldError
		if errors.As(err, &held) {
			kept[l.Lab] = true
			continue
		}
		if err == nil {
			err = errors.Join(sweep(ctx, l.Lab), forget(l.Lab, lock))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("collect lab %s: %w", l.Lab, err))
			continue
		}
		removed = append(removed, l.Lab)
	}
	orphans, err := sweepOrphans(ctx, func(lab string) bool { return kept[lab] || alive != nil && alive(lab) })
	for _, lab := range orphans {
		if !slices.Contains(removed, lab) {
			removed = append(removed, lab)
		}
	}
	return removed, errors.Join(append(errs, err)...)
}

// sweep removes all that the record of a lab names. The caller holds its lock.
func sweep(ctx context.Context, lab string) error {
	r, err := readRecord(lab)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var g graves
	if g.mounts, err = readMounts(); err != nil {
		return err
	}
	for _, n := range sortedKeys(r.Nodes) {
		path := nsPath(lab, n)
		inode := g.mounts.inodes[nsName(lab, n)]
		if inode != 0 && r.Nodes[n] != 0 && inode != r.Nodes[n] {
			continue // somebody else's by now
		}
		g.add(path, inode)
	}
	return g.empty(ctx)
}

// sweepOrphans removes namespaces with our name and our mark inside that no
// record accounts for.
func sweepOrphans(ctx context.Context, keep func(lab string) bool) (labs []string, err error) {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for namespaces: %w", err)
	}
	var g graves
	err = onThread(func() error {
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), "vpclab-") {
				continue
			}
			path := filepath.Join(netnsDir, e.Name())
			inode := inodeOf(path)
			lab, node, ok := markInside(path)
			if inode == 0 || !ok || nsName(lab, node) != e.Name() || keep(lab) {
				continue
			}
			if !slices.Contains(labs, lab) {
				labs = append(labs, lab)
			}
			g.add(path, inode)
		}
		return nil
	})
	return labs, errors.Join(err, g.empty(ctx))
}

// markInside reads the owner tag on a namespace's loopback. The thread is one
// of onThread's.
func markInside(path string) (lab, node string, ok bool) {
	h, err := netns.GetFromPath(path)
	if err != nil {
		return "", "", false
	}
	defer h.Close()
	if netns.Set(h) != nil {
		return "", "", false
	}
	conn, err := rtnl.Dial()
	if err != nil {
		return "", "", false
	}
	defer conn.Close()
	links, err := conn.Links()
	if err != nil {
		return "", "", false
	}
	for _, l := range links {
		if rest, found := strings.CutPrefix(l.Alias, "vpclab:"); found && l.Index == loIndex {
			return strings.Cut(rest, ":")
		}
	}
	return "", "", false
}
