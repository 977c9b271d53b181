package stock

import (
	"os"
	"path/filepath"
	"sort"
)

// CacheFolder is where run.sh unpacks the named thing, one folder a version; it
// is empty for who has neither a home nor $XDG_CACHE_HOME.
func CacheFolder(name string) string {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		cache = filepath.Join(home, ".cache")
	}
	return filepath.Join(cache, "vpclab", name)
}

// Newest finds the newest file $cache/<what>/*/<elements…>; empty if there is none.
func Newest(what string, elements ...string) string {
	cache := CacheFolder(what)
	if cache == "" {
		return ""
	}
	found, _ := filepath.Glob(filepath.Join(append([]string{cache, "*"}, elements...)...))
	if len(found) == 0 {
		return ""
	}
	sort.Slice(found, func(i, j int) bool { return newer(found[i], found[j]) })
	return found[0]
}

// newer tells whether file a was made after file b.
func newer(a, b string) bool {
	sa, ea := os.Stat(a)
	sb, eb := os.Stat(b)
	return ea == nil && (eb != nil || sa.ModTime().After(sb.ModTime()))
}

// ReplaceFile writes a file that others may be reading, or writing too.
func ReplaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it has its name
	_, err = f.Write(data)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
