package metrics

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A run may be done where its folder is not: in a machine without a way out but
// a line of text. There it has a store of its own, packs each trial that is
// published, and sends it; whoever holds the folder of the run adopts it.

// OnPublish has fn called with the folder of each trial that is published from
// now on, before Commit returns. An error of fn is one of Commit.
func (s *Store) OnPublish(fn func(dir string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.published = fn
}

// PackTrial makes a published trial's folder one piece of bytes, a tar archive:
// the same bytes for the same content, whenever and by whomever it was written.
func PackTrial(dir string) ([]byte, error) {
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := out.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o644, Size: int64(len(data)), Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err = out.Write(data)
		return err
	})
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("pack trial %s: %w", dir, err)
	}
	return b.Bytes(), nil
}

// Adopt publishes a packed trial in this store, as Commit does: whole or not at
// all, and on the disk when it returns. A good trial that is there stays, and the
// error is ErrDone. The trial becomes one of this store's present session.
func (s *Store) Adopt(packed []byte) (TrialRecord, error) {
	files, record, err := unpack(packed)
	if err != nil {
		return record, fmt.Errorf("results folder %s: adopt a trial: %w", s.dir, err)
	}
	if s.Done(record.Experiment, record.Point, record.Trial) {
		return record, ErrDone
	}
	t, err := s.Begin(record.Experiment, record.Point, record.Trial)
	if err != nil {
		return record, err
	}
	defer func() { _ = t.Abandon() }() // after adopt it does nothing
	record.Attempt, record.Session = t.record.Attempt, t.record.Session
	t.record = record
	if err := t.adopt(files); err != nil {
		return record, s.fault("adopt trial "+t.path, err)
	}
	return record, nil
}

// unpack reads what PackTrial wrote, and its trial.json.
func unpack(packed []byte) (files map[string][]byte, record TrialRecord, err error) {
	if n := len(packed); n%512 != 0 || !bytes.HasSuffix(packed, make([]byte, 1024)) { // an archive ends with two empty blocks
		return nil, record, fmt.Errorf("its %d bytes end in the middle", n)
	}
	files = map[string][]byte{}
	for in := tar.NewReader(bytes.NewReader(packed)); ; {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, record, err
		}
		if !filepath.IsLocal(head.Name) || head.Typeflag != tar.TypeReg {
			return nil, record, fmt.Errorf("%q is not a file inside a trial's folder", head.Name)
		}
		if files[head.Name], err = io.ReadAll(in); err != nil {
			return nil, record, err
		}
	}
	if record, err = parseTrial(files[trialName]); err != nil {
		return nil, record, fmt.Errorf("%s: %w", trialName, err)
	}
	if record.Experiment == "" || record.Trial < 1 || record.Status != StatusOK && record.Status != StatusFailed {
		return nil, record, fmt.Errorf("%s: it is of no finished trial", trialName)
	}
	if _, err := ReadCSV(bytes.NewReader(files[samplesName])); err != nil {
		return nil, record, err
	}
	return files, record, nil
}

// adopt writes the files of a trial that was done elsewhere, and publishes it.
func (t *Trial) adopt(files map[string][]byte) error {
	t.mu.Lock()
	t.closed = true
	t.events.Close()
	t.mu.Unlock()
	for name, data := range files {
		path := filepath.Join(t.dir, filepath.FromSlash(name))
		if err := mkdirDurable(t.dir, filepath.Dir(path)); err != nil {
			return err
		}
		if name == trialName {
			continue // comes last
		}
		if err := writeDurable(path, data); err != nil {
			return err
		}
	}
	if err := t.writeRecord(); err != nil {
		return err
	}
	return t.publish()
}
