# shellcheck shell=bash
# A small package of our own in several versions, and an apt repository for it on this disk (bash). Everything is in
# $scratch, apt's own state stays as it is, and no network is needed.

package=wg-prove-package

# package_tree VERSION: makes $scratch/tree-VERSION, the files that are in place once that version is configured.
package_tree() {
    local tree=$scratch/tree-$1 lib=$scratch/tree-$1/usr/lib/$package
    mkdir -p "$tree"/{etc/cron.d,etc/logrotate.d,usr/bin,usr/sbin,lib/systemd/system} "$lib"
    printf '#!/bin/sh\necho version %s\n' "$1" | tee "$tree/usr/bin/$package" "$tree/usr/sbin/$package-mail" >"$lib/helper"
    chmod 755 "$tree/usr/bin/$package" "$lib/helper"
    chgrp mail "$tree/usr/sbin/$package-mail"
    chmod 2755 "$tree/usr/sbin/$package-mail"
    echo "version $1" >"$lib/libwg.so.1.0.$1"
    ln -s "libwg.so.1.0.$1" "$lib/libwg.so.1"
    printf '# version %s\n' "$1" | tee "$tree/etc/$package.conf" >"$tree/etc/cron.d/$package"
    printf '[Unit]\nDescription=version %s\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' \
        "$1" >"$tree/lib/systemd/system/$package.service"
    if [ "$1" = 1 ]; then
        # Names that end with this version: a program, a directory, a configuration file, a directory that becomes a link.
        mkdir "$lib/old" "$lib/data"
        tee "$tree/usr/bin/$package-old" "$lib/old/part" "$lib/data/part" <<<'version 1' >"$tree/etc/logrotate.d/$package-old"
    else
        printf '# version %s\n' "$1" >"$tree/etc/logrotate.d/$package"
        ln -s . "$lib/data"
    fi
}

# package_build VERSION: makes $scratch/VERSION.deb, with maintainer scripts that do what those of real packages do.
package_build() {
    local tree=$scratch/tree-$1 control=$scratch/tree-$1/DEBIAN
    (umask 022 && package_tree "$1" && mkdir "$control") || return 1
    printf '%s\n' "Package: $package" "Version: $1" "Architecture: all" "Maintainer: nobody <nobody@localhost>" \
        "Description: made by writegate's prove-default-set" >"$control/control"
    (cd "$tree" && find etc -type f -printf '/%p\n') >"$control/conffiles"
    echo 'activate-noawait ldconfig' >"$control/triggers"
    # The helpers are dpkg's own: they move the configuration file, and make the directory a link.
    cat >"$control/preinst" <<'END'
dpkg-maintscript-helper mv_conffile /etc/logrotate.d/PACKAGE-old /etc/logrotate.d/PACKAGE 2~ -- "$@"
[ VERSION = 1 ] || dpkg-maintscript-helper dir_to_symlink /usr/lib/PACKAGE/data . 2~ -- "$@"
END
    cp "$control/preinst" "$control/postinst"
    cp "$control/preinst" "$control/postrm"
    cat >>"$control/postinst" <<'END'
[ "$1" = configure ] || exit 0
lib=/usr/lib/PACKAGE
getent group PACKAGE >/dev/null || groupadd --system PACKAGE
chown root:PACKAGE $lib/helper
chmod 4750 $lib/helper
PACKAGE >$lib/cache.new
mv $lib/cache.new $lib/cache
ln -sf libwg.so.1.0.VERSION $lib/default
mkdir -p /usr/local/lib/PACKAGE
chown root:mail /usr/local/lib/PACKAGE
chmod 2775 /usr/local/lib/PACKAGE
if [ ! -e /etc/PACKAGE.local ]; then
    cp -p /etc/PACKAGE.conf /etc/PACKAGE.local
    chown root:PACKAGE /etc/PACKAGE.local
    chmod 640 /etc/PACKAGE.local
fi
update-alternatives --install /usr/bin/PACKAGE-any PACKAGE-any /usr/bin/PACKAGE 10
if command -v deb-systemd-helper >/dev/null; then deb-systemd-helper enable PACKAGE.service; fi
END
    cat >"$control/prerm" <<'END'
rm -f /usr/lib/PACKAGE/cache
[ "$1" = remove ] || exit 0
rm -f /usr/lib/PACKAGE/default
rmdir /usr/local/lib/PACKAGE || true
update-alternatives --remove PACKAGE-any /usr/bin/PACKAGE
END
    cat >>"$control/postrm" <<'END'
if [ "$1" = remove ] && command -v deb-systemd-helper >/dev/null; then deb-systemd-helper mask PACKAGE.service; fi
[ "$1" = purge ] || exit 0
rm -f /etc/PACKAGE.local
if command -v deb-systemd-helper >/dev/null; then
    deb-systemd-helper purge PACKAGE.service
    deb-systemd-helper unmask PACKAGE.service
fi
if getent group PACKAGE >/dev/null; then groupdel PACKAGE; fi
END
    sed -i "1i #!/bin/sh\nset -e
        s/PACKAGE/$package/g; s/VERSION/$1/g" "$control"/{pre,post}{inst,rm}
    chmod 755 "$control"/{pre,post}{inst,rm}
    dpkg-deb -Zgzip --build "$tree" "$scratch/$1.deb" >/dev/null || return 1
    rm -r "$control"
}

# package_publish VERSION: from now on the repository has it.
package_publish() {
    local repository=$scratch/repository deb=$scratch/repository/$1.deb
    mkdir -p "$repository" "$scratch/apt"/{lists,cache}
    cp "$scratch/$1.deb" "$deb"
    {
        dpkg-deb -f "$deb"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$1.deb" "$(stat -c %s "$deb")" "$(sha256sum <"$deb" | cut -d' ' -f1)"
    } >>"$repository/Packages"
    echo "deb [trusted=yes] file:$repository ./" >"$scratch/apt/sources.list"
}

# package_apt ARGUMENT...: apt-get that knows that repository and nothing else.
package_apt() {
    local apt=$scratch/apt
    # _apt cannot look into our directory.
    apt-get -y -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::Etc::preferences=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" \
        -o Dir::State::extended_states="$apt/states" -o APT::Sandbox::User=root "$@"
}

kind_of() { stat -c '%f %G' "$1" && { [ ! -L "$1" ] || readlink "$1"; }; }

# package_is VERSION [OLD]: that version is in place, wholly, and nothing that only OLD had. Says what is wrong.
package_is() {
    local tree=$scratch/tree-$1 lib=/usr/lib/$package name wrong
    wrong=$(
        [ "$(dpkg-query -W -f '${Status} ${Version}' $package 2>&1)" = "install ok installed $1" ] || echo "not installed"
        dpkg --verify $package
        while read -r name; do
            [ "/$name" = "$lib/helper" ] || [ "$(kind_of "/$name")" = "$(kind_of "$tree/$name")" ] || echo "another kind: /$name"
            [ -L "/$name" ] || cmp "$tree/$name" "/$name"
        done < <(cd "$tree" && find . ! -type d -printf '%P\n')
        if [ -n "${2:-}" ]; then
            comm -13 <(cd "$tree" && find . | sort) <(cd "$scratch/tree-$2" && find . | sort) | while read -r name; do
                if [ -e "/$name" ]; then echo "still there: $name"; fi
            done
        fi
        [ "$(stat -c '%a %G' "$lib/helper")" = "4750 $package" ] || echo "not as postinst left it: $lib/helper"
        for name in "$lib/cache" "$lib/default"; do
            [ "$(grep -o 'version .*' "$name")" = "version $1" ] || echo "not of this version: $name"
        done
        [ "$("$package-any")" = "version $1" ] || echo "the alternative is another"
        [ "$(stat -c '%a %G' /usr/local/lib/$package)" = "2775 mail" ] || echo "/usr/local/lib/$package is another"
        find /etc /usr -xdev -name "*$package*.dpkg-*"
    ) 2>&1
    if [ -n "$wrong" ]; then echo "$wrong"; fi
    [ -z "$wrong" ]
}

# package_names: what of the package, of its scripts and of dpkg's notes on it the gate is to keep, directories left out.
package_names() {
    {
        dpkg -L $package
        find /usr/lib/$package
        find /etc /usr/bin /var/lib/dpkg/info /var/lib/systemd -xdev -name "$package*"
        echo /var/lib/dpkg/status
    } | while read -r name; do
        if [ -L "$name" ] || [ ! -d "$name" ]; then echo "$(realpath "$(dirname "$name")")/$(basename "$name")"; fi
    done | sort -u | while read -r name; do
        if "$binary" explain "$name" --access unlink --json | jq -e '.enforcement == "healed"' >/dev/null; then echo "$name"; fi
    done
}

# package_gone: nothing is left of it.
package_gone() {
    ! dpkg-query -s $package >/dev/null 2>&1 && ! getent group $package >/dev/null &&
        [ -z "$(find /etc /usr /var/lib/dpkg /var/lib/systemd -xdev -name "*$package*")" ]
}

# package_clean: whatever state it is in. Without a gate.
package_clean() {
    if dpkg-query -s $package >/dev/null 2>&1; then dpkg --purge --force-all $package >/dev/null 2>&1 </dev/null; fi
    # What a maintainer script that did not come to its end has left.
    update-alternatives --remove-all "$package-any" >/dev/null 2>&1
    find /etc /usr /var/lib/systemd -xdev -name "$package*" -prune -exec rm -rf {} +
    if getent group $package >/dev/null; then groupdel $package; fi
}
