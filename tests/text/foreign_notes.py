"""Invented clinical notes in languages that no shipped model knows: a story and a telegraphic one for each."""

NOTES: dict[str, tuple[str, str]] = {
    "es": (
        """MOTIVO DE CONSULTA: Dolor torácico desde hace dos días.
Paciente de 64 años, con antecedentes de hipertensión arterial y diabetes mellitus tipo 2, que acude a urgencias por
dolor opresivo en el centro del pecho que se irradia al brazo izquierdo. Refiere que el dolor empezó mientras subía las
escaleras y que cede con el reposo. No ha tenido fiebre ni tos. Niega alergias a medicamentos. En la exploración está
consciente y orientada, con buena coloración de la piel; los tonos cardíacos son rítmicos y sin soplos, y no hay edemas
en las piernas. Se solicita electrocardiograma, que no muestra cambios agudos. Se decide el ingreso para completar el
estudio y se inicia tratamiento con aspirina. La familia ha sido informada y está de acuerdo con el plan.""",
        """Antecedentes: HTA, DM2, dislipemia, exfumador.
Tratamiento habitual: metformina 850 mg cada 12 h, enalapril 20 mg al día, simvastatina 20 mg por la noche.
Exploración: TA 150/90, FC 88 lpm, afebril. AC: rítmica. AP: crepitantes en bases.
Analítica: creatinina 1,3; hemoglobina 11,2; resto normal.
Juicio clínico: insuficiencia cardíaca descompensada por mal cumplimiento.
Plan: furosemida intravenosa, dieta sin sal, control de diuresis. Revisión en consulta en una semana.""",
    ),
    "fr": (
        """Motif d'hospitalisation : dyspnée d'aggravation progressive depuis une semaine.
Il s'agit d'une patiente de 72 ans, suivie pour une insuffisance cardiaque et une fibrillation auriculaire, qui a
consulté aux urgences pour un essoufflement au moindre effort et une prise de poids de quatre kilos. Elle dit avoir
arrêté son traitement diurétique de sa propre initiative il y a quinze jours. À l'examen, la patiente est consciente,
la tension est à 14/8, on retrouve des râles crépitants aux deux bases et des œdèmes des membres inférieurs. La
radiographie du thorax montre une cardiomégalie avec un épanchement pleural droit de faible abondance. L'évolution a été
favorable sous diurétiques par voie veineuse, et le retour à domicile a été décidé avec une surveillance infirmière.""",
        """Antécédents : HTA, asthme, appendicectomie dans l'enfance. Pas d'allergie connue.
Traitement à l'entrée : bisoprolol 2,5 mg le matin, furosémide 40 mg le matin, apixaban 5 mg matin et soir.
Examen clinique : apyrétique, FC 95/min, SpO2 à 92 % en air ambiant, abdomen souple et indolore.
Biologie : créatinine à 110 µmol/l, potassium à 4,2, CRP à 35.
Conclusion : pneumopathie de la base droite chez une patiente asthmatique.
Conduite à tenir : amoxicilline pendant sept jours, kinésithérapie, contrôle chez le médecin traitant.""",
    ),
    "de": (
        """Anamnese: Die 58-jährige Patientin stellte sich wegen seit drei Wochen zunehmender Schmerzen im rechten
Oberbauch in unserer Ambulanz vor. Die Beschwerden treten vor allem nach fettem Essen auf und strahlen in die rechte
Schulter aus. Fieber oder Gelbsucht wurden nicht bemerkt. An Vorerkrankungen sind eine arterielle Hypertonie und eine
Schilddrüsenunterfunktion bekannt, die mit Tabletten behandelt wird. Bei der körperlichen Untersuchung war der Bauch
weich, mit Druckschmerz unter dem rechten Rippenbogen, die Darmgeräusche waren regelrecht. Im Ultraschall zeigten sich
mehrere Steine in der Gallenblase ohne Zeichen einer Entzündung. Wir besprachen mit der Patientin die Möglichkeit einer
Operation, der sie nach Aufklärung zustimmte. Der Eingriff verlief ohne Besonderheiten, und sie konnte am dritten Tag in
gutem Allgemeinzustand nach Hause entlassen werden.""",
        """Diagnosen: Vorhofflimmern, arterielle Hypertonie, Diabetes mellitus Typ 2, Z. n. Hüft-TEP rechts 2015
Medikation bei Aufnahme: Metoprolol 47,5 mg 1-0-1, Ramipril 5 mg 1-0-0, Metformin 1000 mg 1-0-1
Befund: RR 145/85, Puls 92 unregelmäßig, Lunge beidseits belüftet, keine Ödeme
Labor: Kreatinin 1,1 mg/dl, CRP leicht erhöht, Blutbild unauffällig
Procedere: Beginn einer Antikoagulation, Kontrolle der Nierenwerte in zwei Wochen durch den Hausarzt.
Bei Verschlechterung bitten wir um sofortige Wiedervorstellung.""",
    ),
    "it": (
        """Motivo del ricovero: febbre e tosse da cinque giorni.
Paziente di 69 anni, ex fumatore, con storia di broncopneumopatia cronica ostruttiva, giunto in pronto soccorso per
febbre elevata e difficoltà respiratoria. Riferisce tosse produttiva con espettorato giallastro e dolore al torace
durante l'inspirazione. All'esame obiettivo il paziente è vigile e collaborante, la cute è calda e sudata, al torace si
apprezzano rantoli crepitanti alla base destra. L'addome è trattabile e non dolente. La radiografia ha mostrato un
addensamento del lobo inferiore destro. È stata iniziata una terapia antibiotica per via endovenosa con buona risposta
clinica e scomparsa della febbre dopo due giorni. Il paziente viene dimesso in buone condizioni generali con l'indicazione
di proseguire la terapia a casa e di eseguire un controllo presso il medico curante.""",
        """Anamnesi: ipertensione arteriosa, diabete, pregresso infarto nel 2012. Nega allergie.
Terapia domiciliare: ramipril 5 mg al mattino, metformina 1000 mg due volte al giorno, cardioaspirina 100 mg.
Esame obiettivo: PA 140/80, FC 76, toni cardiaci validi, assenza di edemi declivi.
Esami: emoglobina 12,4, creatinina 0,9, glicemia 168.
Conclusioni: angina stabile; si consiglia prova da sforzo.
Si programma una visita di controllo tra tre mesi con gli esami del sangue.""",
    ),
    "pt": (
        """Queixa principal: dor abdominal há três dias.
Doente do sexo feminino, de 45 anos, sem antecedentes relevantes, que recorreu ao serviço de urgência por dor no quadrante
inferior direito do abdómen, acompanhada de náuseas e vómitos. Refere que a dor começou à volta do umbigo e depois se
deslocou. Não tem alergias conhecidas nem toma medicação habitual. Ao exame físico, encontrava-se consciente e orientada,
com o abdómen doloroso à palpação e sinais de irritação peritoneal. As análises mostraram leucocitose e a ecografia
confirmou o diagnóstico de apendicite aguda. Foi submetida a cirurgia sem intercorrências e teve boa evolução no
pós-operatório. Tem alta para o domicílio, com indicação de repouso e de voltar à consulta dentro de uma semana.""",
        """Antecedentes pessoais: hipertensão, asma, cirurgia às varizes em 2010.
Medicação: losartan 50 mg de manhã, salbutamol em SOS, sinvastatina 20 mg à noite.
Exame: TA 135/85, FC 80, eupneica, sem edemas, auscultação pulmonar com sibilos dispersos.
Análises: hemoglobina 13, creatinina 0,8, PCR negativa.
Hipótese diagnóstica: crise de asma desencadeada por infeção respiratória.
Plano: corticoide por cinco dias, broncodilatador, reavaliação pelo médico de família.""",
    ),
    "nl": (
        """Reden van komst: pijn op de borst sinds vanochtend.
Een 61-jarige man met een voorgeschiedenis van hoge bloeddruk en een verhoogd cholesterol werd door de huisarts verwezen
vanwege drukkende pijn op de borst die uitstraalt naar de linkerarm. De klachten ontstonden tijdens het fietsen en waren
na een half uur rust verdwenen. Hij is niet benauwd en heeft geen koorts gehad. Bij lichamelijk onderzoek zagen wij een
niet acuut zieke man, de longen waren schoon en er waren geen aanwijzingen voor hartfalen. Het hartfilmpje liet geen
nieuwe afwijkingen zien en de bloeduitslagen waren herhaaldelijk normaal. Wij hebben met de patiënt besproken dat er
verder onderzoek nodig is en dat hij bij nieuwe klachten meteen contact moet opnemen. Hij kon dezelfde dag naar huis.""",
        """Voorgeschiedenis: hypertensie, COPD, gestopt met roken in 2009.
Medicatie: metoprolol 50 mg eenmaal daags, omeprazol 20 mg, inhalaties met tiotropium.
Lichamelijk onderzoek: RR 150/90, pols 84 regulair, over de longen verlengd expirium, geen oedeem aan de benen.
Laboratorium: Hb 8,4, kreatinine 92, CRP 48.
Conclusie: exacerbatie van COPD bij een luchtweginfectie.
Beleid: prednison gedurende zeven dagen, vernevelen, controle op de polikliniek over twee weken.""",
    ),
    "pl": (
        """Powód przyjęcia: duszność i obrzęki kończyn dolnych od tygodnia.
Pacjent lat 70, z wieloletnim nadciśnieniem tętniczym i przebytym zawałem serca, został przyjęty do oddziału z powodu
narastającej duszności wysiłkowej oraz obrzęków. Neguje bóle w klatce piersiowej i gorączkę. Od kilku dni nie przyjmował
leków moczopędnych. W badaniu przedmiotowym stan ogólny dość dobry, nad polami płucnymi słyszalne trzeszczenia u podstawy,
tętno niemiarowe, brzuch miękki i niebolesny. W badaniu radiologicznym stwierdzono powiększenie sylwetki serca i cechy
zastoju. Zastosowano leczenie moczopędne dożylnie, uzyskując znaczną poprawę. Pacjenta wypisano do domu w stanie dobrym
z zaleceniem regularnego przyjmowania leków, kontroli masy ciała i wizyty u lekarza rodzinnego za dwa tygodnie.""",
        """Wywiad: nadciśnienie, cukrzyca typu 2, usunięcie pęcherzyka żółciowego w 2011 roku.
Leki: ramipryl 5 mg rano, metformina 1000 mg dwa razy dziennie, bisoprolol 2,5 mg.
Badanie: RR 150/90, tętno 78 na minutę, szmer pęcherzykowy prawidłowy, bez obrzęków.
Wyniki: kreatynina 0,9, hemoglobina 13,5, glukoza 156.
Rozpoznanie: zapalenie oskrzeli.
Zalecenia: antybiotyk przez siedem dni, dużo płynów, kontrola w poradni w razie nasilenia objawów.""",
    ),
    "sv": (
        """Kontaktorsak: buksmärta sedan två dagar.
En 52-årig kvinna som tidigare är väsentligen frisk söker akutmottagningen på grund av smärta i höger sida av buken.
Smärtan började efter maten och har sedan blivit värre. Hon har inte haft feber men mår illa och har kräkts två gånger.
Tar inga mediciner och är inte allergisk. Vid undersökningen är patienten opåverkad i vila, hjärtat har en regelbunden
rytm och lungorna är utan anmärkning. Buken är mjuk men ömmar under höger revbensbåge. Ultraljudet visade stenar i
gallblåsan utan tecken till inflammation. Patienten fick smärtlindring med god effekt och kunde gå hem samma kväll. Hon
kommer att få en tid till kirurgen för planering av operation och ska höra av sig om hon får feber.""",
        """Tidigare sjukdomar: hypertoni, förmaksflimmer, opererad för ljumskbråck 2016.
Läkemedel: metoprolol 50 mg dagligen, apixaban 5 mg två gånger dagligen, simvastatin 20 mg till kvällen.
Status: blodtryck 140/85, puls 72 oregelbunden, inga ödem, lungor utan biljud.
Prover: Hb 138, kreatinin 85, CRP mindre än 5.
Bedömning: välinställt blodtryck, fortsatt behandling med blodförtunnande.
Planering: återbesök hos distriktssköterska om sex månader, ny kontroll av njurfunktionen.""",
    ),
    "zh": (
        """主诉：反复胸痛三天，加重一天。
现病史：患者男性，六十五岁，三天前上楼时出现胸骨后压榨样疼痛，休息后可以缓解，昨天夜间再次发作，持续约半小时，伴有出汗和恶心。
患者没有发热、咳嗽，也没有呼吸困难。既往有高血压病史十年，长期服用降压药物，血压控制尚可；否认糖尿病史和药物过敏史。
体格检查：神志清楚，心律齐，未闻及杂音，双肺呼吸音清，腹部柔软无压痛，双下肢没有水肿。心电图提示下壁导联改变。
处理：入院后给予抗血小板和降脂治疗，症状明显好转，建议完善冠状动脉造影检查。患者及家属表示理解并同意目前的治疗方案。""",
        """诊断：高血压二级，二型糖尿病，高脂血症。
用药：二甲双胍每日两次，氨氯地平每日一次，阿托伐他汀每晚一次。
查体：血压一百四十，脉搏八十，体温正常。
化验：血红蛋白正常，肌酐轻度升高，空腹血糖偏高。
建议：低盐低脂饮食，适当运动，两周后门诊复查。""",
    ),
    "ja": (
        """主訴：三日前からの発熱と咳。
現病歴：患者は七十歳の男性で、三日前から三十八度の発熱と咳が出現したため当院を受診した。痰は黄色で、昨日から息切れも
感じるようになった。胸の痛みはない。高血圧で近くの医院に通院しており、薬を毎日飲んでいる。アレルギーはないと言っている。
身体所見では意識は清明で、右の肺の下のほうに雑音が聞こえた。腹部は柔らかく、足のむくみはなかった。胸部のレントゲンで右の
下葉に影があり、肺炎と診断した。入院して抗菌薬の点滴を始めたところ、二日後には熱が下がり、食事もとれるようになった。
今後は外来で経過をみることとし、薬を続けるように説明した。""",
        """既往歴：高血圧、糖尿病、虫垂炎の手術。
内服薬：アムロジピンを朝に一錠、メトホルミンを朝夕に一錠。
診察：血圧はやや高め、脈は整、むくみなし。
検査：血糖が高く、腎臓の値は正常でした。
方針：食事の塩分を減らすこと。一か月後に再診の予定です。""",
    ),
    "ru": (
        """Жалобы: на боли за грудиной и одышку при ходьбе в течение недели.
Больной 66 лет поступил в отделение с жалобами на давящие боли за грудиной, которые возникают при физической нагрузке и
проходят после отдыха. В анамнезе гипертоническая болезнь, принимает лекарства нерегулярно. Аллергии нет. При осмотре
состояние средней тяжести, сознание ясное, кожные покровы обычной окраски. В лёгких дыхание жёсткое, хрипов нет. Тоны
сердца приглушены, ритм правильный. Живот мягкий, безболезненный. На электрокардиограмме признаки гипертрофии левого
желудочка. Проводилось лечение, на фоне которого состояние улучшилось, боли не повторялись. Выписан домой в
удовлетворительном состоянии, рекомендовано наблюдение у кардиолога по месту жительства и контроль давления.""",
        """Анамнез: сахарный диабет второго типа, гипертония, операция по поводу грыжи.
Лечение: метформин два раза в день, лизиноприл утром, аспирин вечером.
Объективно: давление 140 на 90, пульс 76, отёков нет.
Анализы: гемоглобин в норме, сахар повышен.
Диагноз: острый бронхит.
Рекомендации: обильное питьё, антибиотик семь дней, повторный приём через неделю.""",
    ),
    "ar": (
        """الشكوى الرئيسية: ألم في الصدر منذ يومين.
مريض يبلغ من العمر ستين عاما، يعاني من ارتفاع ضغط الدم ومرض السكري، حضر إلى قسم الطوارئ بسبب ألم ضاغط في منتصف الصدر يمتد
إلى الذراع الأيسر. بدأ الألم أثناء صعود الدرج وزال بعد الراحة. لا توجد حمى ولا سعال ولا حساسية من الأدوية. عند الفحص كان
المريض واعيا، وأصوات القلب منتظمة بدون نفخات، والرئتان سليمتان، ولا يوجد تورم في الساقين. أظهر تخطيط القلب تغيرات بسيطة.
تم إدخال المريض إلى المستشفى لاستكمال الفحوصات، وبدأ العلاج بالأسبرين، وتحسنت حالته بعد ذلك. سيعود إلى العيادة بعد أسبوع
للمتابعة، وقد تم شرح الخطة للمريض وأهله.""",
        """السوابق المرضية: ارتفاع ضغط الدم، السكري، استئصال الزائدة الدودية.
الأدوية: ميتفورمين مرتين في اليوم، أملوديبين صباحا.
الفحص السريري: الضغط مرتفع قليلا، النبض منتظم، لا توجد وذمات.
التحاليل: السكر مرتفع ووظائف الكلى طبيعية.
التشخيص: التهاب في الشعب الهوائية.
الخطة: مضاد حيوي لمدة سبعة أيام ومراجعة الطبيب بعد أسبوعين.""",
    ),
    "el": (
        """Αιτία εισόδου: πυρετός και βήχας από πενταημέρου.
Ασθενής ηλικίας 68 ετών, με ιστορικό αρτηριακής υπέρτασης και σακχαρώδους διαβήτη, προσήλθε στα επείγοντα λόγω υψηλού
πυρετού και δύσπνοιας. Αναφέρει παραγωγικό βήχα και πόνο στο δεξί ημιθωράκιο κατά την εισπνοή. Δεν έχει γνωστές αλλεργίες.
Κατά την κλινική εξέταση ο ασθενής ήταν σε καλή επικοινωνία με το περιβάλλον, με τρίζοντες στη δεξιά βάση, ενώ η κοιλιά
ήταν μαλακή και ανώδυνη. Η ακτινογραφία θώρακος έδειξε πύκνωση στον δεξιό κάτω λοβό. Χορηγήθηκε ενδοφλέβια αντιβιοτική
αγωγή και ο πυρετός υποχώρησε μετά από δύο ημέρες. Ο ασθενής εξέρχεται σε καλή γενική κατάσταση με οδηγίες να συνεχίσει
την αγωγή στο σπίτι και να επανεξεταστεί σε δύο εβδομάδες.""",
        """Ιστορικό: υπέρταση, δυσλιπιδαιμία, χολοκυστεκτομή.
Φάρμακα: μετφορμίνη δύο φορές την ημέρα, αμλοδιπίνη το πρωί.
Εξέταση: πίεση 140/80, σφύξεις 78, χωρίς οιδήματα.
Εργαστηριακά: αιμοσφαιρίνη φυσιολογική, σάκχαρο αυξημένο.
Διάγνωση: οξεία βρογχίτιδα.
Οδηγίες: άφθονα υγρά, αντιβίωση για επτά ημέρες, επανεξέταση στα εξωτερικά ιατρεία.""",
    ),
}
# More languages, a story each.
MORE: dict[str, str] = {
    "da": """Henvendelsesårsag: åndenød gennem en uge. En 67-årig kvinde med kendt hjertesygdom indlægges på grund af tiltagende åndenød
og hævede ben. Hun har ikke haft feber eller smerter i brystet. Ved undersøgelsen er patienten vågen og klar, der høres
knitrende lyde over lungerne, og der er ødemer på begge ben. Hun får vanddrivende medicin og har det hurtigt bedre. Hun
udskrives til hjemmet med besked om at tage sin medicin hver dag og komme til kontrol hos egen læge om to uger.""",
    "no": """Årsak til innleggelse: smerter i brystet. En 59 år gammel mann med høyt blodtrykk ble lagt inn på grunn av klemmende smerter i
brystet som kom da han gikk i trappen. Han har ikke hatt feber, og han bruker ingen faste medisiner. Ved undersøkelsen var
han våken og klar, hjertet var regelmessig og lungene var uten anmerkning. Blodprøvene var normale. Han ble skrevet ut til
hjemmet etter to dager og skal til kontroll hos fastlegen om fire uker.""",
    "fi": """Tulosyy: hengenahdistus. Potilas on 74-vuotias nainen, jolla on sydämen vajaatoiminta ja verenpainetauti. Hän tuli päivystykseen,
koska hengenahdistus oli viikon aikana pahentunut ja jalat olivat turvonneet. Kuumetta tai rintakipua ei ole ollut.
Tutkittaessa keuhkoista kuuluu rahinoita ja molemmissa jaloissa on turvotusta. Nesteenpoistolääkitystä lisättiin, minkä
jälkeen vointi korjaantui nopeasti. Potilas kotiutui hyvävointisena, ja kontrolli on kahden viikon kuluttua.""",
    "cs": """Důvod přijetí: dušnost a otoky dolních končetin. Pacient ve věku 71 let s dlouholetou hypertenzí byl přijat pro zhoršující se
dušnost, která trvá asi týden. Bolesti na hrudi neguje, teplotu neměl. Při vyšetření je při vědomí, nad plícemi jsou
slyšitelné chrůpky, břicho je měkké a nebolestivé. Na rentgenu plic je zvětšené srdce. Po nitrožilní léčbě se stav rychle
zlepšil a pacient byl propuštěn domů v dobrém stavu. Doporučena je kontrola u praktického lékaře za dva týdny.""",
    "tr": """Başvuru nedeni: iki gündür devam eden göğüs ağrısı. Yüksek tansiyonu olan 62 yaşında erkek hasta, merdiven çıkarken başlayan
ve sol kola yayılan göğüs ağrısı ile acil servise başvurdu. Ateşi ve öksürüğü yoktu. Muayenede bilinci açıktı, kalp
sesleri düzenliydi ve akciğerlerde ek ses duyulmadı. Kan tetkikleri normal bulundu. Hasta tedavi edildikten sonra iyi
durumda taburcu edildi ve bir hafta sonra kontrole gelmesi önerildi.""",
    "ko": """주소: 이틀 전부터 시작된 가슴 통증. 환자는 육십오 세 남자로 고혈압이 있으며 계단을 오르다가 가슴이 조이는 듯한 통증을 느껴 응급실에
내원하였다. 열이나 기침은 없었다고 한다. 진찰에서 의식은 명료하였고 심장 박동은 규칙적이었으며 폐에서 잡음은 들리지 않았다. 혈액 검사는
정상이었다. 환자는 약물 치료 후 증상이 호전되어 퇴원하였고 일주일 뒤 외래에서 다시 진료를 받기로 하였다.""",
    "ro": """Motivele internării: dispnee și edeme ale membrelor inferioare de o săptămână. Pacient în vârstă de 68 de ani, cunoscut cu
hipertensiune arterială și diabet zaharat, se prezintă pentru dispnee la eforturi mici. Nu a avut febră și nici dureri în
piept. La examenul obiectiv pacientul este conștient, cu raluri la bazele pulmonare și edeme gambiere. S-a administrat
tratament diuretic intravenos, cu evoluție favorabilă. Se externează în stare bună, cu recomandarea de a reveni la control
peste două săptămâni.""",
    "hu": """Felvétel oka: egy hete fokozódó nehézlégzés. A 70 éves, magas vérnyomással kezelt férfi beteg lábdagadás és fulladás miatt került
felvételre. Láza nem volt, mellkasi fájdalmat nem jelzett. A vizsgálat során tudata tiszta, a tüdő felett szörtyzörejek
hallhatók, a has puha és nem érzékeny. Vízhajtó kezelés mellett állapota gyorsan javult. A beteget jó általános állapotban
otthonába bocsátottuk, két hét múlva ellenőrző vizsgálat javasolt a háziorvosnál.""",
    "uk": """Скарги на біль у грудях та задишку протягом тижня. Хворий віком 63 роки, який має гіпертонічну хворобу, надійшов до відділення
зі скаргами на стискаючий біль, що виникає під час ходьби. Алергії немає. Під час огляду стан середньої важкості, свідомість
ясна, у легенях дихання везикулярне, хрипів немає. Після лікування стан покращився, біль не повторювався. Виписаний додому
в задовільному стані, рекомендовано спостереження у сімейного лікаря.""",
    "he": """תלונה עיקרית: כאבים בחזה מזה יומיים. גבר בן שישים ושתיים, עם יתר לחץ דם וסוכרת, הגיע למיון בגלל כאב לוחץ במרכז החזה שהחל בזמן
עלייה במדרגות. אין חום ואין שיעול. בבדיקה החולה בהכרה מלאה, קולות הלב סדירים והריאות נקיות. בדיקות הדם תקינות. לאחר טיפול חלה
הטבה במצבו והוא שוחרר לביתו עם המלצה לביקורת אצל רופא המשפחה בעוד שבוע.""",
}
