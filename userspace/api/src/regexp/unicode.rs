//! The names that `\p{...}` may have, in Go's spelling rules: case, blanks, underscores and hyphens do not matter.

/// General categories by their short name and their aliases.
const CATEGORIES: [(&str, &str); 38] = [
    ("C", "Other"),
    ("Cc", "Control Cntrl"),
    ("Cf", "Format"),
    ("Cn", "Unassigned"),
    ("Co", "Privateuse"),
    ("Cs", "Surrogate"),
    ("L", "Letter"),
    ("Lc", "Casedletter"),
    ("Ll", "Lowercaseletter"),
    ("Lm", "Modifierletter"),
    ("Lo", "Otherletter"),
    ("Lt", "Titlecaseletter"),
    ("Lu", "Uppercaseletter"),
    ("M", "Mark Combiningmark"),
    ("Mc", "Spacingmark"),
    ("Me", "Enclosingmark"),
    ("Mn", "Nonspacingmark"),
    ("N", "Number"),
    ("Nd", "Decimalnumber Digit"),
    ("Nl", "Letternumber"),
    ("No", "Othernumber"),
    ("P", "Punctuation Punct"),
    ("Pc", "Connectorpunctuation"),
    ("Pd", "Dashpunctuation"),
    ("Pe", "Closepunctuation"),
    ("Pf", "Finalpunctuation"),
    ("Pi", "Initialpunctuation"),
    ("Po", "Otherpunctuation"),
    ("Ps", "Openpunctuation"),
    ("S", "Symbol"),
    ("Sc", "Currencysymbol"),
    ("Sk", "Modifiersymbol"),
    ("Sm", "Mathsymbol"),
    ("So", "Othersymbol"),
    ("Z", "Separator"),
    ("Zl", "Lineseparator"),
    ("Zp", "Paragraphseparator"),
    ("Zs", "Spaceseparator"),
];

/// The long names of scripts. Their short names (`Grek`) are not names in Go.
pub(super) const SCRIPTS: &str = "
    Adlam Ahom Anatolianhieroglyphs Arabic Armenian Avestan Balinese Bamum Bassavah Batak Bengali Bhaiksuki Bopomofo
    Brahmi Braille Buginese Buhid Canadianaboriginal Carian Caucasianalbanian Chakma Cham Cherokee Chorasmian Common
    Coptic Cuneiform Cypriot Cyprominoan Cyrillic Deseret Devanagari Divesakuru Dogra Duployan Egyptianhieroglyphs
    Elbasan Elymaic Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjalagondi Gurmukhi Han Hangul
    Hanifirohingya Hanunoo Hatran Hebrew Hiragana Imperialaramaic Inherited Inscriptionalpahlavi Inscriptionalparthian
    Javanese Kaithi Kannada Katakana Kawi Kayahli Kharoshthi Khitansmallscript Khmer Khojki Khudawadi Lao Latin Lepcha
    Limbu Lineara Linearb Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen Masaramgondi
    Medefaidrin Meeteimayek Mendekikakui Meroiticcursive Meroitichieroglyphs Miao Modi Mongolian Mro Multani Myanmar
    Nabataean Nagmundari Nandinagari Newtailue Newa Nko Nushu Nyiakengpuachuehmong Ogham Olchiki Oldhungarian Olditalic
    Oldnortharabian Oldpermic Oldpersian Oldsogdian Oldsoutharabian Oldturkic Olduyghur Oriya Osage Osmanya Pahawhhmong
    Palmyrene Paucinhau Phagspa Phoenician Psalterpahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian Siddham
    Signwriting Sinhala Sogdian Sorasompeng Soyombo Sundanese Sylotinagri Syriac Tagalog Tagbanwa Taile Taitham Taiviet
    Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi Wancho Warangciti
    Yezidi Yi Zanabazarsquare
";

/// The name of a class in the syntax of the `regex` crate, and whether it is the class's complement.
pub(super) fn class(name: &str) -> Option<(String, bool)> {
    let name = canonical(name);
    let category = |short: &str| format!("gc={short}");
    match name.as_str() {
        "Any" => return Some(("any".to_owned(), false)),
        "Ascii" => return Some(("ascii".to_owned(), false)),
        "Assigned" => return Some((category("Cn"), true)),
        _ => {}
    }
    let found = CATEGORIES
        .iter()
        .find(|(short, aliases)| *short == name || aliases.split(' ').any(|alias| alias == name));
    if let Some((short, _)) = found {
        return Some((category(short), false));
    }
    let script = SCRIPTS.split_ascii_whitespace().find(|script| *script == name)?;
    Some((format!("sc={script}"), false))
}

/// A leading capital, then small letters, without blanks, underscores and hyphens.
fn canonical(name: &str) -> String {
    let mut letters = name.chars().filter(|c| !matches!(c, '_' | '-' | ' '));
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(letters.map(|c| c.to_ascii_lowercase())).collect()
}
