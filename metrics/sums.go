package metrics

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sumsName is the list of digests, in the form that sha256sum -c reads. It has
// everything that was measured: not run.json, which holds its own digest, and
// not what is drawn from the rest at any time.
const sumsName = "SHA256SUMS"

// drawn are what plots makes of a run's folder.
var drawn = []string{"figures", "report.html"}

// writeSums writes SHA256SUMS and returns its own digest.
func (s *Store) writeSums() (string, error) {
	names, err := s.measured()
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	for _, name := range names {
		sum, err := FileDigest(filepath.Join(s.dir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s  %s\n", sum, filepath.ToSlash(name))
	}
	digest := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(digest[:]), ReplaceFile(filepath.Join(s.dir, sumsName), b.Bytes())
}

// measured are the files that SHA256SUMS lists, in alphabetical order.
func (s *Store) measured() (names []string, err error) {
	err = filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(s.dir, path)
		if err != nil || name == "." {
			return err
		}
		if strings.HasPrefix(name, ".") || slices.Contains(drawn, name) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type().IsRegular() && name != "run.json" && name != sumsName {
			names = append(names, name)
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

// FileDigest is the SHA-256 of a file, in hexadecimal.
func FileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// SamplesDigest is the SHA-256 of samples.csv: two runs with the same one
// measured the same, bit by bit.
func (s *Store) SamplesDigest() (string, error) {
	return FileDigest(filepath.Join(s.dir, samplesName))
}

// ErrNoSums says that a run has no digests: it has not come to its end, or was
// written by a version that kept none.
var ErrNoSums = errors.New("it has no " + sumsName)

// Verify holds the files of the folder against the digests that the run ended
// with, and returns a line for each that is not as it was. Of a folder whose
// trials were not kept, those are not missed.
func (s *Store) Verify() (checked int, faults []string, err error) {
	text, err := os.ReadFile(filepath.Join(s.dir, sumsName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, fmt.Errorf("verify %s: %w", s.dir, ErrNoSums)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("verify %s: %w", s.dir, err)
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != s.info.Sums {
		faults = append(faults, sumsName+": it is not the one that run.json was written with")
	}
	listed := map[string]bool{}
	for in := bufio.NewScanner(bytes.NewReader(text)); in.Scan(); {
		want, name, ok := strings.Cut(in.Text(), "  ")
		if !ok || !filepath.IsLocal(name) {
			faults = append(faults, fmt.Sprintf("%s: %q is no line of it", sumsName, in.Text()))
			continue
		}
		listed[name] = true
		got, err := FileDigest(filepath.Join(s.dir, filepath.FromSlash(name)))
		switch {
		case errors.Is(err, fs.ErrNotExist) && s.reduced:
			continue
		case errors.Is(err, fs.ErrNotExist):
			faults = append(faults, name+": it is gone")
		case err != nil:
			return checked, faults, fmt.Errorf("verify %s: %w", s.dir, err)
		case got != want:
			faults = append(faults, name+": its content has changed")
		}
		checked++
	}
	names, err := s.measured()
	if err != nil {
		return checked, faults, fmt.Errorf("verify %s: %w", s.dir, err)
	}
	for _, name := range names {
		if !listed[filepath.ToSlash(name)] {
			faults = append(faults, name+": it was not there when the run ended")
		}
	}
	return checked, faults, nil
}
