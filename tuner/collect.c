/* SPDX-License-Identifier: MIT */
/*
 * A directory's time of modification is that of its environment's last use: storing an entry sets
 * it, and the cache sets it when it finds one. Everything is opened relative to the directory above
 * it and without following links, so nothing outside the root can be reached, whoever else writes
 * there.
 */
#include "collect.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KEPT_SECONDS ((time_t)7 * 24 * 3600)
#define MANIFEST_SIZE 1024
#define HEX "0123456789abcdef"
#define DECIMAL "0123456789"

struct walk {
    const struct collect *collect;
    time_t now;
    int error; /* the first */
};

/* The text behind `least` or more characters of the set; NULL if there are fewer. */
static const char *skip(const char *text, const char *set, size_t least)
{
    const size_t length = strspn(text, set);
    return length >= least ? text + length : NULL;
}

static bool is_environment(const char *name)
{
    return strspn(name, HEX) == 16 && name[16] == '\0';
}

/* NULL: the name does not start as an entry's or the manifest's. Else what is behind it. */
static const char *skip_file_name(const char *name)
{
    if (strncmp(name, "MANIFEST", 8) == 0) {
        return name + 8;
    }
    return strspn(name, HEX) == 16 && strncmp(name + 16, ".txt", 4) == 0 ? name + 20 : NULL;
}

static bool is_file(const char *name)
{
    const char *rest = skip_file_name(name);
    return rest != NULL && *rest == '\0';
}

/* FILE.PROCESS.COUNTER.ADDRESS.tmp */
static bool is_temporary(const char *name)
{
    static const char *const sets[] = {DECIMAL, DECIMAL, HEX};
    const char *rest = skip_file_name(name);
    for (int i = 0; i < 3 && rest != NULL; i++) {
        rest = *rest == '.' ? skip(rest + 1, sets[i], 1) : NULL;
    }
    return rest != NULL && strcmp(rest, ".tmp") == 0;
}

static void failed(struct walk *walk)
{
    if (walk->error == 0 && errno != ENOENT) {
        walk->error = errno;
    }
}

static bool is_old(const struct walk *walk, const struct stat *info)
{
    return walk->now - info->st_mtime > KEPT_SECONDS;
}

/* path: below the root. */
static void removed(const struct walk *walk, const char *path, const struct stat *info)
{
    const struct collect *c = walk->collect;
    if (c->report != NULL) {
        c->report(c->report_user, path, S_ISREG(info->st_mode) ? (uint64_t)info->st_size : 0);
    }
}

/* Opens a directory for readdir(); NULL if it is none, or a link. */
static DIR *open_directory(int at, const char *name)
{
    const int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (fd >= 0 && directory == NULL) {
        close(fd);
    }
    return directory;
}

/* The value of a line "NAME VALUE\n" of a manifest; its length. */
static const char *manifest_value(const char *text, const char *name, size_t *length)
{
    const size_t size = strlen(name);
    for (const char *line = text; line != NULL && *line != '\0'; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, size) == 0 && line[size] == ' ') {
            *length = strcspn(line + size + 1, "\n");
            return line + size + 1;
        }
    }
    *length = 0;
    return NULL;
}

static bool same_value(const char *a, const char *b, const char *name)
{
    size_t x, y;
    const char *one = manifest_value(a, name, &x), *other = manifest_value(b, name, &y);
    return one != NULL && other != NULL && x == y && memcmp(one, other, x) == 0;
}

/* Does the manifest in this directory tell of this CPU and another build of the library? */
static bool is_other_build(const struct walk *walk, int directory)
{
    char text[MANIFEST_SIZE];
    const int fd = openat(directory, "MANIFEST", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    const ssize_t length = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0) {
        close(fd);
    }
    if (length <= 0) {
        return false;
    }
    text[length] = '\0';
    const char *own = walk->collect->environment;
    return same_value(text, own, "cpu") &&
           !(same_value(text, own, "doconv-cache") && same_value(text, own, "library") &&
             same_value(text, own, "kernels"));
}

/* Old temporary files of a directory; everything of ours in it. */
static void clean_files(struct walk *walk, DIR *directory, const char *name, bool everything)
{
    const int fd = dirfd(directory);
    for (struct dirent *item; (item = readdir(directory)) != NULL;) {
        struct stat info;
        const bool temporary = is_temporary(item->d_name);
        if (!(temporary || (everything && is_file(item->d_name))) ||
            fstatat(fd, item->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode) ||
            !(everything || is_old(walk, &info))) {
            continue;
        }
        if (unlinkat(fd, item->d_name, 0) != 0) {
            failed(walk);
            continue;
        }
        char path[32 + sizeof item->d_name];
        snprintf(path, sizeof path, "%.16s/%s", name, item->d_name);
        removed(walk, path, &info);
    }
}

static void clean_environment(struct walk *walk, int root, const char *name)
{
    const struct collect *c = walk->collect;
    DIR *directory = open_directory(root, name);
    struct stat info;
    if (directory == NULL || fstat(dirfd(directory), &info) != 0) {
        if (directory == NULL && errno != ELOOP && errno != ENOTDIR) {
            failed(walk);
        }
        if (directory != NULL) {
            closedir(directory);
        }
        return;
    }
    const bool goes = c->scope == COLLECT_ALL ||
                      (strcmp(name, c->own) != 0 && is_old(walk, &info) &&
                       (c->scope == COLLECT_OLD || is_other_build(walk, dirfd(directory))));
    clean_files(walk, directory, name, goes);
    if (is_old(walk, &info)) {
        /* Cleaning is no use of it. */
        const struct timespec times[2] = {info.st_atim, info.st_mtim};
        (void)futimens(dirfd(directory), times);
    }
    closedir(directory);
    if (goes && unlinkat(root, name, AT_REMOVEDIR) == 0) {
        removed(walk, name, &info);
    } else if (goes && errno != ENOTEMPTY && errno != EEXIST) {
        failed(walk);
    }
}

int dc_collect(const struct collect *collect)
{
    struct walk walk = {.collect = collect, .now = time(NULL)};
    /* The root itself may be a link: it is where the user said. */
    DIR *root = opendir(collect->root);
    if (root == NULL) {
        return errno == ENOENT ? 0 : errno;
    }
    for (struct dirent *item; (item = readdir(root)) != NULL;) {
        if (is_environment(item->d_name)) {
            clean_environment(&walk, dirfd(root), item->d_name);
        }
    }
    closedir(root);
    return walk.error;
}
