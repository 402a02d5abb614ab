package s2dev

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble's write-ahead log consists of blocks of chunks. A chunk begins with a CRC (4 bytes), its
// length (2), its encoding (1), the log's number (4), and how much of the log an fsync had covered
// when the chunk was written (8). Pebble takes an unreadable place for the log's end, unless a
// later block shows that it is not. Damage in the last block, or in a log of one block, therefore
// goes unnoticed, and the records behind it are lost.
const (
	walBlock          = 32 << 10
	walHeader         = 4 + 2 + 1 + 4 + 8
	walMinEncoding    = 5 // the first encoding with the log's number
	walSyncedEncoding = 9 // the first encoding with what an fsync covered
	walMaxEncoding    = 12
	walMaxSize        = 1 << 30 // longer logs are not checked
	walCRCStart       = 4 + 2   // the first byte that the CRC covers
)

// logDamage describes an unreadable place in a log, and what was found behind it.
type logDamage struct {
	file        string
	offset      int  // its first byte
	wholeChunks int  // behind the place
	synced      bool // a chunk behind it shows that an fsync had covered the place
}

func (d *logDamage) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d, with %d whole pieces behind it: what they hold was acknowledged, and is lost unless the folder comes from a backup", d.file, d.offset, d.wholeChunks)
}

// checkNewestLog checks the newest write-ahead log in a folder before Pebble opens it. Damage in
// acknowledged records is an error. Damage with whole chunks behind it that no fsync is known to
// have covered may come from a crash, and is only logged.
func checkNewestLog(fs vfs.FS, dir string, log *slog.Logger) error {
	names, err := fs.List(dir)
	if err != nil {
		return nil //nolint:nilerr // a new folder, or an error that Pebble will report
	}
	newest, number := "", uint64(0)
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, ".log")
		n, err := strconv.ParseUint(digits, 10, 64)
		if ok && err == nil && n >= number {
			newest, number = name, n
		}
	}
	if newest == "" {
		return nil
	}
	raw, err := readLog(fs, fs.PathJoin(dir, newest))
	if err != nil {
		return err
	}
	d := findDamage(raw, uint32(number))
	if d == nil {
		return nil
	}
	if d.file = fs.PathJoin(dir, newest); d.synced {
		return d
	}
	log.Warn("the end of the log is not whole: a crash cut it off, or it is damaged; what was not forced to the disk there is lost",
		"file", d.file, "at", d.offset, "pieces", d.wholeChunks)
	return nil
}

func readLog(fs vfs.FS, path string) ([]byte, error) {
	info, err := fs.Stat(path)
	if err != nil || info.Size() > walMaxSize {
		return nil, err
	}
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(f)
	return raw, joinClose(err, f)
}

func joinClose(err error, c io.Closer) error {
	if closed := c.Close(); err == nil {
		err = closed
	}
	return err
}

// findDamage returns the first place in a log that is no chunk of it, if there are chunks behind
// that place; otherwise nil.
func findDamage(raw []byte, number uint32) *logDamage {
	at := 0
	for at < len(raw) {
		left := walBlock - at%walBlock
		if left < walHeader { // Pebble may pad the end of a block
			if _, ok := chunkLenAt(raw, at, number); !ok {
				at += left
				continue
			}
		}
		n, ok := chunkLenAt(raw, at, number)
		if !ok {
			break
		}
		at += n
	}
	if at >= len(raw) || isLogTrailer(raw, at, number) {
		return nil
	}
	d := &logDamage{offset: at}
	for i := at + 1; i < len(raw); {
		n, ok := chunkLenAt(raw, i, number)
		if !ok {
			if isLogTrailer(raw, i, number) { // the log was closed properly
				d.synced = true
				d.wholeChunks++
			}
			i++
			continue
		}
		d.wholeChunks++
		if raw[i+6] >= walSyncedEncoding && binary.LittleEndian.Uint64(raw[i+11:]) > uint64(at) {
			d.synced = true
		}
		i += n
	}
	if d.wholeChunks == 0 {
		return nil
	}
	return d
}

// isLogTrailer reports whether the place at a byte is what Pebble ends a closed log with: an empty
// chunk of the next log.
func isLogTrailer(raw []byte, at int, number uint32) bool {
	return at+walCRCStart+5 <= len(raw) && binary.LittleEndian.Uint32(raw[at:]) == 0 && binary.LittleEndian.Uint16(raw[at+4:]) == 0 &&
		raw[at+6] >= walMinEncoding && raw[at+6] <= walMaxEncoding && binary.LittleEndian.Uint32(raw[at+7:]) == number+1
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// chunkLenAt returns the length of the log's chunk at a byte; ok is false if there is none.
func chunkLenAt(raw []byte, at int, number uint32) (n int, ok bool) {
	if at+walCRCStart+5 > len(raw) {
		return 0, false
	}
	encoding, header := raw[at+6], walHeader
	if encoding < walMinEncoding || encoding > walMaxEncoding || binary.LittleEndian.Uint32(raw[at+7:]) != number {
		return 0, false
	}
	if encoding < walSyncedEncoding {
		header -= 8
	}
	n = header + int(binary.LittleEndian.Uint16(raw[at+4:]))
	if at+n > len(raw) || at%walBlock+n > walBlock {
		return 0, false
	}
	c := crc32.Checksum(raw[at+walCRCStart:at+n], castagnoli)
	return n, binary.LittleEndian.Uint32(raw[at:]) == (c>>15|c<<17)+0xa282ead8
}
