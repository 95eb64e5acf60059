/* SPDX-License-Identifier: Apache-2.0 */
/* See conf_file.h. inih does the grammar of the INI file. It is fed line by line, because it neither
 * tells a handler the line it is at nor refuses lines that do not fit its buffer: it would take the rest
 * of such a line for the next one. */
#include "daemon/conf_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ini.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "daemon/conf_option.h"

enum { FILE_BYTES_MAX = 1 << 20 };

int conf_file_read(const char *path, struct buf *out, struct err *err)
{
    buf_init(out, FILE_BYTES_MAX);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return err_sys(err, errno, "%s", path);
    int r = 0;
    for (;;) {
        char chunk[4096];
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) r = err_sys(err, errno, "%s: read", path);
        if (n <= 0) break;
        r = buf_append(out, chunk, (size_t)n);
        explicit_bzero(chunk, sizeof chunk); // the file may hold keys
        if (r == -EMSGSIZE) r = ERR(err, ERR_CONFIG, "%s: larger than %d bytes", path, FILE_BYTES_MAX);
        if (r < 0) break;
    }
    (void)close(fd); // opened for reading: nothing to lose
    if (r >= 0 && memchr(buf_text(out), '\0', out->len))
        r = ERR(err, ERR_CONFIG, "%s: not a text file", path);
    return r < 0 ? r : 0;
}

static void wipe(struct buf *buf)
{
    if (buf->bytes) explicit_bzero(buf->bytes, buf->len);
    buf_done(buf);
}

/* ---- INI ---- */

struct ini {
    const char *path;
    const char *text; // what is left of the file
    int line;         // number of the line that inih holds
    int r;            // first error, 0 while none; its text is in err
    struct conf *conf;
    struct err *err;
    bool seen[CONF_OPTION_COUNT];
};

/* fgets() of inih. NULL ends the file: also after the first error. */
static char *next_line(char *out, int out_bytes, void *stream)
{
    struct ini *ini = stream;
    if (ini->r < 0 || *ini->text == '\0') return NULL;
    ini->line++;
    size_t len = strcspn(ini->text, "\n");
    if (len + 2 > (size_t)out_bytes) {
        ini->r = ERR(ini->err, ERR_CONFIG, "%s:%d: line longer than %d bytes", ini->path, ini->line,
                     out_bytes - 2);
        return NULL;
    }
    memcpy(out, ini->text, len);
    memcpy(out + len, "\n", 2);
    ini->text += len + (ini->text[len] == '\n');
    return out;
}

static int refuse_name(const struct ini *ini, const char *section, const char *name,
                       const struct conf_option *option)
{
    if (option) {
        return ERR(ini->err, ERR_CONFIG, "%s:%d: %s belongs into [%s], not [%.32s]", ini->path, ini->line,
                   option->flag, option->section, section);
    }
    const char *nearest = conf_option_nearest(name, strlen(name));
    return ERR(ini->err, ERR_CONFIG, "%s:%d: unknown setting '%.64s'%s%s%s", ini->path, ini->line, name,
               nearest ? ", did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
}

/* One name = value. Called again with the same name for the indented lines that follow it. */
static int take_setting(void *user, const char *section, const char *name, const char *value)
{
    struct ini *ini = user;
    if (ini->r < 0) return 0;
    const struct conf_option *option = conf_option_find(name, strlen(name));
    if (!option || strcmp(section, option->section) != 0) {
        ini->r = refuse_name(ini, section, name, option);
        return 0;
    }
    bool *seen = &ini->seen[option - conf_options];
    if (*seen && option->kind != CONF_KIND_KEYS) {
        ini->r = ERR(ini->err, ERR_CONFIG,
                     "%s:%d: %s is set twice (an indented line continues the one before)", ini->path,
                     ini->line, option->flag);
        return 0;
    }
    *seen = true;
    char where[256];
    (void)snprintf(where, sizeof where, "%.160s:%d: %s", ini->path, ini->line, option->flag);
    ini->r = conf_option_set(ini->conf, option, CONF_FROM_FILE, value, ERR_CONFIG, where, ini->err);
    return ini->r == 0;
}

int conf_file_read_ini(const char *path, struct conf *conf, struct err *err)
{
    struct buf text;
    int r = conf_file_read(path, &text, err);
    if (r < 0) goto out;
    struct ini ini = {.path = path, .text = buf_text(&text), .conf = conf, .err = err};
    int line = ini_parse_stream(next_line, &ini, take_setting, &ini);
    if (line < 0) {
        r = ERR(err, -ENOMEM, "%s: out of memory", path);
    } else if (line > 0 && (ini.r == 0 || line < ini.line)) {
        r = ERR(err, ERR_CONFIG, "%s:%d: neither [section], name = value nor # comment", path, line);
    } else {
        r = ini.r;
    }
out:
    wipe(&text);
    return r;
}

/* ---- keys ---- */

int conf_file_read_keys(const char *path, struct conf_list *keys, struct err *err)
{
    struct buf text;
    size_t count = keys->count;
    int r = conf_file_read(path, &text, err);
    int number = 0;
    for (const char *line = buf_text(&text); r == 0 && *line;) {
        size_t len = strcspn(line, "\n");
        const char *key = line + strspn(line, " \t");
        const char *end = line + len;
        number++;
        line = end + (*end == '\n');
        while (end > key && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r')) end--;
        if (key >= end || *key == '#') continue;
        r = conf_list_add_key(keys, key, (size_t)(end - key));
        if (r == -ENOMEM) (void)ERR(err, r, "out of memory"); // r is returned below
        if (r == ERR_CONFIG) {
            r = ERR(err, r, "%s:%d: a key is 1 to 256 visible ASCII characters, no comma", path, number);
        }
    }
    if (r == 0 && keys->count == count) r = ERR(err, ERR_CONFIG, "%s: holds no key", path);
    wipe(&text);
    return r;
}
